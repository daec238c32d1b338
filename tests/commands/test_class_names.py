"""Weights that do not name their classes: all that the message advises works."""

import dataclasses
import json

import pytest

from atss_jax.inference import export
from atss_jax.inference.detector import Detector
from atss_jax.training.convert import convert
from atss_jax.weights import mmdet_checkpoint
from tests.support.small_run import CLASSES

OTHERS = ('a', 'b c', 'd')


@pytest.fixture(scope='module')
def bare(small_run, tmp_path_factory):
    """A `.pth` without class names."""
    file = tmp_path_factory.mktemp('bare') / 'bare.pth'
    convert(str(small_run.workdir), str(file))
    checkpoint = mmdet_checkpoint.load(str(file))
    checkpoint = dataclasses.replace(checkpoint, classes=None)
    mmdet_checkpoint.save(str(file), checkpoint)
    return file


@pytest.fixture
def predict(call, small_run, small_data, tmp_path):
    """`predict.py` on one image; gives the result and the written class names."""
    image = sorted((small_data / 'val').iterdir())[0]

    def run(weights, *flags):
        result = call(
            *('predict', image, f'--workdir={weights}', f'--out={tmp_path / "out"}'),
            *('--no_pictures', *flags),
        )
        if result.status:
            return result, None
        written = json.loads((tmp_path / 'out' / 'pictures.json').read_text())
        return result, tuple(c['name'] for c in written['categories'])

    return run


@pytest.fixture
def config(small_run):
    return f'--model_config={small_run.workdir}/config.json'


def test_the_message_names_what_can_be_done(predict, bare, config):
    result, _ = predict(bare, config)
    assert result.refuses('--class_names=NAME,NAME', 'data.test.classes', 'classes=')


@pytest.mark.parametrize(
    'flag', ['--class_names=a, b c,d', f'--config.data.test.classes={OTHERS}']
)
def test_a_flag_and_a_field_name_the_classes(predict, bare, config, flag):
    result, names = predict(bare, config, flag)
    assert result.status == 0, result.err
    assert names == OTHERS


def test_the_config_names_the_classes(predict, bare, small_run, tmp_path):
    content = json.loads((small_run.workdir / 'config.json').read_text())
    content['data']['test']['classes'] = OTHERS
    (tmp_path / 'c.json').write_text(json.dumps(content))
    _, names = predict(bare, f'--model_config={tmp_path / "c.json"}')
    assert names == OTHERS
    detector = Detector.load(bare, tmp_path / 'c.json')
    assert detector.classes == OTHERS
    detector = Detector.load(bare, tmp_path / 'c.json', classes=CLASSES)
    assert detector.classes == CLASSES


@pytest.mark.parametrize(
    ('flag', 'part'),
    [
        ('--class_names=a,b', "2 classes ('a', 'b'), but the model has 3"),
        ("--config.data.test.classes=('a',)", "1 classes ('a',), but the model has 3"),
    ],
)
def test_a_wrong_number_of_names(predict, bare, config, flag, part):
    assert predict(bare, config, flag)[0].refuses(part)


def test_names_that_contradict_the_weights(predict, small_run):
    for flag in ('--class_names=a,b,c', "--config.data.test.classes=('a', 'b', 'c')"):
        assert predict(small_run.workdir, flag)[0].refuses('was trained for')


def test_generated_data_names_its_classes(bare, small_run, tmp_path):
    config = json.loads((small_run.workdir / 'config.json').read_text())
    shapes = {'type': 'ShapesDataset', 'num_images': 1, 'seed': 0, 'min_size': 32}
    shapes |= {'max_size': 64, 'max_objects': 1, 'object_size': (0.2, 0.5)}
    shapes |= {'min_visible': 0.5, 'max_rotation': 0, 'clutter': 0, 'noise': 0}
    config['data']['test'] = {**shapes, 'pipeline': config['data']['test']['pipeline']}
    (tmp_path / 'c.json').write_text(json.dumps(config))
    with pytest.raises(ValueError, match=r"5 classes \('circle', 'square'"):
        Detector.load(bare, tmp_path / 'c.json')
    detector = Detector.load(bare, tmp_path / 'c.json', classes=CLASSES)
    assert detector.classes == CLASSES


def test_export_names_them_too(call, bare, config, tmp_path, monkeypatch):
    exported = []
    monkeypatch.setattr(
        export, 'write', lambda out, trained, _: exported.append(trained)
    )
    flags = f'--workdir={bare}', config, f'--out={tmp_path / "a.stablehlo"}'
    assert call('atss', 'export', *flags).refuses('--class_names')
    result = call('atss', 'export', *flags, '--class_names=a,b c,d')
    assert result.status == 0 and '3 classes' in result.out
    assert exported[0].classes == OTHERS


@pytest.mark.parametrize(
    ('flags', 'parts'),
    [
        ([], ['--model_config']),
        (['--model_config={config}', '--step=3'], ['--step', 'leave it out']),
    ],
)
def test_other_advice_for_files(predict, bare, small_run, flags, parts):
    config = f'{small_run.workdir}/config.json'
    assert predict(bare, *(f.format(config=config) for f in flags))[0].refuses(*parts)


def test_advice_for_workdirs(predict, small_run, config):
    result, _ = predict(small_run.workdir, config)
    assert result.refuses('leave out --model_config', '--config.FIELD=VALUE')
