"""`atss train --data FOLDER` on each form: the run, its resume, evaluation, drawing."""

import json

import numpy as np
import pytest

from atss_jax.config import to_json
from atss_jax.data import image_file
from atss_jax.training.log import RunLog
from tests.support.every_form import WRITERS
from tests.support.small_run import (
    CLASSES,
    Killed,
    metrics_of,
    saved_steps,
    share_steps,
    small_config,
)

FORMS = [
    pytest.param(name, marks=pytest.mark.hf if name == 'Parquet' else ())
    for name in WRITERS
]
FOUND = {
    'COCO': 'COCO with train (annotations/instances_train2017.json), '
    'val (annotations/instances_val2017.json)',
    'Roboflow': 'COCO with train (train/_annotations.coco.json), '
    'val (valid/_annotations.coco.json)',
    'YOLO': 'YOLO with train (images/train), val (images/val)',
    'Pascal VOC': 'Pascal VOC with train (ImageSets/Main/train.txt), '
    'val (ImageSets/Main/val.txt)',
    'image folder': 'Hugging Face with train (train/metadata.jsonl), '
    'val (val/metadata.jsonl)',
    'Parquet': 'Hugging Face with train (data/train-00000-of-00001.parquet), '
    'val (data/val-00000-of-00001.parquet)',
}


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    """Sizes of images are kept for each test; compiled steps are shared."""
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    share_steps(monkeypatch)


@pytest.fixture
def tiny(small_data, tmp_path):
    """Path of a config of a tiny model, on other data with more classes."""
    overrides = {'model.bbox_head.num_classes': 7, 'data.train.indices': 3}
    path = tmp_path / 'tiny.json'
    path.write_text(to_json(small_config(small_data, overrides)))
    return path


@pytest.fixture
def run(call, tmp_path, monkeypatch):
    """`run('train', ...)` calls a command in the temporary folder."""

    def call_there(*words):
        monkeypatch.chdir(tmp_path)
        return call(*words)

    return call_there


def killed_after(monkeypatch, step, train):
    """Ends a training after a step that is not saved."""
    log_step = RunLog.step

    def log_and_end(self, number, *args):
        log_step(self, number, *args)
        if number == step:
            raise Killed

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(RunLog, 'step', log_and_end)
        train()


@pytest.mark.long
@pytest.mark.parametrize('name', FORMS)
def test_train_resume_and_evaluate(run, small_data, tiny, tmp_path, monkeypatch, name):
    """The folder is relative, and its path has a space."""
    WRITERS[name](small_data, tmp_path / 'my data')
    words, workdir = ('train', f'--config={tiny}', '--workdir=w'), tmp_path / 'w'
    killed_after(monkeypatch, 4, lambda: run(*words, '--data=my data'))
    assert saved_steps(workdir) == [3]
    result = run(*words, '--data=./my data/')
    assert result.status == 0, result.err
    assert 'resuming after step 3' in result.out
    assert result.out.count(f'my data: {FOUND[name]}\n') == 2  # once for each start
    assert '21 training and 9 evaluation images, 3 classes' in result.out
    assert max(saved_steps(workdir)) == 6

    config = json.loads((workdir / 'config.json').read_text())
    assert config['model']['bbox_head']['num_classes'] == 3
    assert [config['data'][s]['split'] for s in ('train', 'val', 'test')] == [
        *('train', 'val', 'val')
    ]
    result = run('eval', '--workdir=w')
    assert result.status == 0, result.err
    (scores,) = (workdir / 'evaluation').glob('*_scores.json')
    numbers = json.loads(scores.read_text())
    assert 0 <= numbers['AP'] <= 1 and set(numbers['per_class']) == set(CLASSES)


@pytest.mark.long
def test_the_forms_train_alike(run, small_data, tiny, tmp_path):
    """Objects of the same images in the same order: the same losses.

    The other forms have other ids (images of YOLO and VOC are sorted by name), or no
    crowds, and so other batches.
    """
    losses = {}
    for name in ('COCO', 'Roboflow', 'image folder'):
        WRITERS[name](small_data, tmp_path / name)
        workdir = tmp_path / f'w {name}'
        flags = f'--data={name}', f'--workdir={workdir}'
        assert run('train', f'--config={tiny}', *flags).status == 0
        losses[name] = [r['loss'] for r in metrics_of(workdir, 'train')]
    assert losses['COCO']
    assert losses['COCO'] == losses['Roboflow'] == losses['image folder']


@pytest.mark.long
def test_train_report_and_draw(run, small_data, tiny, tmp_path):
    """All that there is to do with a run, on YOLO files alone."""
    WRITERS['YOLO'](small_data, tmp_path / 'y')
    flags = '--data=y', '--workdir=w'
    assert run('train', f'--config={tiny}', *flags).status == 0
    result = run('eval', '--workdir=w', '--report')
    assert result.status == 0, result.err
    (page,) = (tmp_path / 'w' / 'evaluation').glob('*_report.html')
    assert '<h2>Worst images' in page.read_text()
    for what in ('data', 'detections', 'assignment', 'batch'):
        sheet = tmp_path / f'{what}.png'
        more = ('--step=1',) if what == 'batch' else ()
        result = run('atss', 'draw', what, '--workdir=w', f'--out={sheet}', *more)
        assert result.status == 0, result.err
        assert len(np.unique(image_file.read(sheet))) > 20

    (results,) = (tmp_path / 'w' / 'evaluation').glob('*_detections.json')
    (scores,) = (tmp_path / 'w' / 'evaluation').glob('*_scores.json')
    flags = f'--results={results}', '--data=y', '--out=again', '--report'
    result = run('eval', *flags)
    assert result.status == 0, result.err
    (again,) = (tmp_path / 'again').glob('*_scores.json')
    assert json.loads(again.read_text())['AP'] == json.loads(scores.read_text())['AP']


def test_a_folder_without_evaluation_data(run, small_data, tiny, tmp_path):
    WRITERS['YOLO'](small_data, tmp_path / 'y')
    (tmp_path / 'y' / 'data.yaml').write_text('train: images/train\nnames: [a, b, c]\n')
    result = run('train', f'--config={tiny}', '--data=y', '--workdir=w')
    result.refuses(
        'the split val is needed, but y (YOLO) has only train', 'atss split y'
    )
    assert not (tmp_path / 'w').exists()


def test_no_folder(run, tiny, tmp_path):
    result = run('train', f'--config={tiny}', '--data=none', '--workdir=w')
    result.refuses("path = 'none': there is no such file or folder")
    assert not (tmp_path / 'w').exists()
