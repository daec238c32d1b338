"""Training on joined data sets: the run, its evaluation, and what a resume refuses."""

import json

import numpy as np
import pytest

from atss_jax.config import to_json
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.evaluation.coco_metric import evaluate
from atss_jax.training import workdir as workdirs
from atss_jax.training.setup import prepare
from tests.support.small_run import small_config


def joined_config(folder, times=1, **fields):
    """The small config on its training and evaluation images together."""
    config = small_config(folder)
    sets = [
        {
            'type': 'CocoDataset',
            'ann_file': str(folder / f'{name}.json'),
            'img_prefix': str(folder / name),
        }
        for name in ('train', 'val')
    ]
    overrides = {
        f'data.{split}': {
            'type': 'ConcatDataset',
            'datasets': tuple(dict(data_set) for data_set in sets),
            'classes': None,
            'pipeline': config.data[split].pipeline.to_dict(),
        }
        for split in ('train', 'val')
    }
    overrides['data.train']['datasets'][1]['times'] = times
    overrides['data.train'] |= {'times': 1, **fields}
    return small_config(folder, overrides)


@pytest.fixture
def claimed(small_data, tmp_path):
    """The workdir of a run on joined data that has begun."""
    run = prepare(joined_config(small_data, 2), str(tmp_path))
    workdirs.claim(str(tmp_path), run.config_json, run.stream)
    return tmp_path


def test_the_same_data_are_resumed(claimed, small_data):
    run = prepare(joined_config(small_data, 2), str(claimed))
    assert run.batches.plan.occurrences.tolist() == [1] * 17 + [2] * 8
    assert '25 training (33 an epoch) and 30 evaluation images' in str(run)


@pytest.mark.parametrize(
    ('other', 'change'),
    [
        ({'times': 3}, r'data\.train\.datasets\.1\.times: 2 there, 3 now'),
        (
            {'times': 2, 'oversample_thr': 0.9},
            r'data\.train\.oversample_thr: None there, 0\.9 now',
        ),
    ],
)
def test_other_occurrences_are_refused(
    claimed, small_data, tmp_path_factory, other, change
):
    config = joined_config(small_data, **other)
    with pytest.raises(ValueError, match=change):
        prepare(config, str(claimed))
    # `resume_from` has another workdir, and compares the batches.
    run = prepare(config, str(tmp_path_factory.mktemp('other')))
    with pytest.raises(ValueError) as caught:
        workdirs.check_stream(str(claimed), run.stream, resumes_from=True)
    for part in ('how often an epoch shows each image', 'data.train.oversample_thr'):
        assert part in str(caught.value)


def test_a_run_of_an_earlier_version_is_resumed(claimed, small_data):
    """Its stream does not state how often images occur."""
    stream = json.loads((claimed / 'stream.json').read_text())
    del stream['occurrences_digest']
    (claimed / 'stream.json').write_text(json.dumps(stream))
    prepare(joined_config(small_data, 2), str(claimed))


@pytest.mark.long
def test_train_evaluate_and_draw(call, small_data, tmp_path):
    """The scores are those of the two files one after the other."""
    (tmp_path / 'c.json').write_text(to_json(joined_config(small_data, 2)))
    config, workdir = f'--config={tmp_path / "c.json"}', tmp_path / 'w'
    flags = '--config.total_epochs=1', f'--workdir={workdir}'
    assert call('train', config, *flags).status == 0
    result = call('eval', f'--workdir={workdir}', '--report')
    assert result.status == 0 and '30 images' in result.out
    assert len([*(workdir / 'evaluation').glob('*_report.html')]) == 1
    (file,) = (workdir / 'evaluation').glob('*_detections.json')
    results = json.loads(file.read_text())
    assert {r['image_id'] for r in results} <= set(range(1, 31))

    sets = [
        CocoDataset(str(small_data / f'{n}.json'), str(small_data / n), test_mode=True)
        for n in ('train', 'val')
    ]
    truth = {'images': [], 'annotations': [], 'categories': []}
    for start, source in zip((0, 21), sets, strict=True):
        part = source.ground_truth()
        ids = {image['id']: start + k for k, image in enumerate(part['images'], 1)}
        truth['images'] += [i | {'id': ids[i['id']]} for i in part['images']]
        truth['annotations'] += [
            a | {'id': 1000 * start + a['id'], 'image_id': ids[a['image_id']]}
            for a in part['annotations']
        ]
        truth['categories'] = part['categories']
    expected = evaluate(truth, results, sets[0].classes, sets[0].category_ids)
    (scores,) = (workdir / 'evaluation').glob('*_scores.json')
    numbers = json.loads(scores.read_text())
    assert np.isfinite(expected.summary['AP'])
    for name in ('AP', 'AP50', 'APs', 'AR100'):
        assert numbers[name] == pytest.approx(expected.summary[name], abs=1e-12)

    sheet = tmp_path / 'sheet.png'
    assert call('atss', 'draw', 'data', config, f'--out={sheet}').status == 0
    assert sheet.stat().st_size > 1000
