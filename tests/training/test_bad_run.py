"""Bad images in a whole run: training, evaluation in it, and `eval.py`."""

import contextlib
import io
import json
import shutil

import pytest

from atss_jax.data.image_file import BadImage
from atss_jax.evaluation import coco_metric
from atss_jax.evaluation.evaluate import evaluate
from tests.support.small_run import CATEGORY_IDS, CLASSES, small_config, train


@pytest.fixture(scope='module')
def run_with_bad_images(small_data, tmp_path_factory):
    """A trained workdir, the id of the bad image of each split, what was said."""
    folder = tmp_path_factory.mktemp('spoilt')
    shutil.copytree(small_data, folder, dirs_exist_ok=True)
    ids = {}
    for split in ('train', 'val'):
        content = json.loads((folder / f'{split}.json').read_text())
        ids[split] = content['annotations'][0]['image_id']
        (folder / split / f'{ids[split]}.png').write_bytes(b'')
    workdir = folder / 'workdir'
    out = io.StringIO()
    with contextlib.redirect_stdout(out), pytest.warns(UserWarning) as told:
        train(small_config(folder), str(workdir))
    told = [str(w.message) for w in told if 'bad image' in str(w.message)]
    return workdir, ids, out.getvalue(), told


def test_training_passes_over_a_bad_image_and_reports_it(run_with_bad_images):
    _, ids, out, told = run_with_bad_images
    assert len(told) == 2  # though the evaluation image was met in both epochs
    for split, line in zip(('train', 'val'), told, strict=True):
        assert f'image id {ids[split]}, ' in line and f'{split}.json' in line
    lines = [line for line in out.splitlines() if 'bad images skipped' in line]
    for split, line in zip(('val', 'val', 'train'), lines, strict=True):
        assert line == (
            f'data.{split}: bad images skipped: 1 (at most 1 allowed); '
            f'image ids [{ids[split]}]'
        )


def test_evaluation_finds_nothing_in_a_bad_image(run_with_bad_images):
    workdir, ids, *_ = run_with_bad_images
    with pytest.warns(UserWarning, match=f'image id {ids["val"]}, '):
        evaluation = evaluate(str(workdir))
    assert f'image ids [{ids["val"]}]' in evaluation.text()
    folder = workdir / 'evaluation'
    (scores,) = folder.glob('*_scores.json')
    assert json.loads(scores.read_text())['bad_pictures'] == [ids['val']]
    (results,) = folder.glob('*_detections.json')
    results = json.loads(results.read_text())
    found = {result['image_id'] for result in results}
    assert ids['val'] not in found and len(found) == 8
    # Its objects count as missed: the score is that against the whole ground truth.
    ground_truth = json.loads((workdir.parent / 'val.json').read_text())
    again = coco_metric.evaluate(ground_truth, results, CLASSES, CATEGORY_IDS)
    written = json.loads(scores.read_text())
    assert written['AP'] == pytest.approx(again.summary['AP'])

    with pytest.raises(BadImage, match=f'image id {ids["val"]}, '):
        evaluate(str(workdir), overrides={'data.max_bad_pictures': 0})
