"""Models of the zoo: their weights as imported, fine-tuning from them, the commands.

A server on this machine has checkpoints of the published layouts.
"""

import json

import numpy as np
import pytest
from flax.traverse_util import flatten_dict

import atss_jax
from atss_jax.commands.import_mmdet import import_mmdet
from atss_jax.config import build_model, load_config
from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.training.convert import convert
from atss_jax.training.initial import initial_variables
from atss_jax.training.trained_model import load_trained, load_weights
from atss_jax.weights import mmdet, model_zoo
from tests.conftest import ROOT
from tests.mmdet_config.test_translate import MMDET
from tests.support.file_server import serving
from tests.support.recipes import golden_state_dict
from tests.support.small_run import CLASSES, small_config
from tests.support.zoo import FORMS, Zoo, quick_state_dict

R50 = 'atss_r50_fpn_1x_coco'
SHIPPED = list(model_zoo.models())
# The files of the others are larger.
EACH = [
    pytest.param(name, marks=[] if name == R50 else [pytest.mark.slow])
    for name in SHIPPED
]


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    with serving(monkeypatch) as server:
        yield Zoo(server, tmp_path, monkeypatch)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty current folder."""
    (tmp_path / 'here').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    return tmp_path / 'here'


def publish(zoo, name, form='3.x'):
    """Offers a checkpoint of a published layout in place of that; its weights."""
    config = model_zoo.find(name).config
    if name == R50:
        weights = {k: np.asarray(x) for k, x in golden_state_dict().items()}
    else:
        weights = quick_state_dict(build_model(load_config(config)))
    zoo.add_weights(name, config, weights, COCO_CLASSES, form)
    return weights


def assert_same(one, other, counters=True):
    """Checks that trees of variables have the same names and bits."""
    one, other = flatten_dict(one), flatten_dict(other)
    assert one.keys() == other.keys()
    for path, value in one.items():
        if counters or path[-1] != 'num_batches_tracked':
            np.testing.assert_array_equal(value, other[path], err_msg=str(path))


# The five layouts --------------------------------------------------------------------


@pytest.mark.parametrize('form', ['2.x', '3.x'])
@pytest.mark.parametrize('name', EACH)
def test_weights_of_each_layout(zoo, name, form):
    weights = publish(zoo, name, form)
    loaded = load_trained(name)
    assert loaded.classes == COCO_CLASSES
    expected = mmdet.to_variables(weights, loaded.experiment.model)
    assert_same(loaded.variables, expected, counters=form != '2.x')
    assert len(zoo.downloads) == 1


def detections(source, images, **more):
    detector = atss_jax.Detector.load(source, overrides=SMALLER, **more)
    return detector.predict(images)


SMALLER = {'data.test.pipeline.img_scale': (256, 160), 'test_cfg.max_per_img': 20}


def assert_same_detections(ours, theirs):
    assert sum(map(len, ours)) > 10
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-6)
        np.testing.assert_array_equal(one.labels, other.labels)


@pytest.mark.slow
@pytest.mark.parametrize('form', ['2.x', '3.x'])
@pytest.mark.parametrize('name', SHIPPED)
def test_detections_of_each_layout(zoo, name, form, coco_tiny, tmp_path):
    publish(zoo, name, form)
    images = sorted((coco_tiny / 'val2017').iterdir())[:3]
    workdir = str(tmp_path / 'converted')
    convert(f'mmdet://{name}', workdir)
    assert_same_detections(detections(name, images), detections(workdir, images))


@pytest.mark.mmdet
@pytest.mark.parametrize('name', SHIPPED)
def test_detections_of_the_imported_checkpoint(zoo, name, coco_tiny, tmp_path):
    """With mmdetection's own config of the model."""
    if not MMDET.is_dir():
        pytest.fail(f'no {MMDET}: run make test-mmdet')
    publish(zoo, name, '2.x')
    folder = 'dyhead' if 'dyhead' in name else 'atss'
    workdir = str(tmp_path / 'imported')
    import_mmdet(str(MMDET / folder / f'{name}.py'), f'mmdet://{name}', workdir)
    images = sorted((coco_tiny / 'val2017').iterdir())[:3]
    assert_same_detections(detections(name, images), detections(workdir, images))


# A small model -----------------------------------------------------------------------


@pytest.fixture
def small(zoo, small_data, tmp_path):
    """`small(form)`: publishes a model of the small config; gives its state dict."""
    config = small_config(small_data)
    (tmp_path / 'small.json').write_text(config.to_json_best_effort())
    weights = quick_state_dict(build_model(config))

    def publish(form='3.x', **fields):
        zoo.add_weights('small', 'small.json', weights, CLASSES, form, **fields)
        return weights

    return publish


@pytest.mark.parametrize('form', FORMS)
def test_class_names_come_from_the_file_or_the_zoo(zoo, small, form):
    weights = small(form)
    loaded = load_weights('small')
    assert (loaded.classes, loaded.step) == (CLASSES, None)
    expected = mmdet.to_variables(weights, loaded.experiment.model)
    assert_same(loaded.variables, expected, counters=form != '2.x')


def test_a_config_of_the_user_goes_before_that_of_the_zoo(zoo, small, tmp_path):
    small()
    changed = json.loads((tmp_path / 'small.json').read_text())
    changed['test_cfg']['max_per_img'] = 3
    (tmp_path / 'changed.json').write_text(json.dumps(changed))
    limits = [
        load_weights('small', config).experiment.detect.max_per_img
        for config in (None, tmp_path / 'changed.json')
    ]
    assert limits == [20, 3]


def test_nothing_is_downloaded_for_a_config_that_is_wrong(zoo, small):
    small()
    with pytest.raises(ValueError, match='total_epoch'):
        load_weights('small', overrides={'total_epoch': 3})
    with pytest.raises(ValueError, match='leave it out'):
        load_weights('small', step=3)
    with pytest.raises(ValueError, match='give the config of its model'):
        load_weights('https://127.0.0.1:9/x.pth')
    assert zoo.downloads == []


def test_what_is_neither_a_workdir_nor_a_model(zoo, here):
    with pytest.raises(ValueError, match=f"did you mean the model '{R50}'"):
        load_weights('atss_r50_fpn_1x')
    with pytest.raises(ValueError, match='no model of this name'):
        load_weights('work_dirs/mine')


# Fine-tuning -------------------------------------------------------------------------


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('source', ['small', 'mmdet://small', 'address'])
def test_classes_are_matched_by_name(zoo, small, form, source):
    """If a file does not name its classes, they are known only if it is the zoo's."""
    weights = small(form)
    if source == 'address':
        (source,) = zoo.models['small']['addresses']
    config = load_config(model_zoo.find('small').config)
    model = build_model(config)
    said = []
    here = ('blue', 'moon', 'red')
    variables = initial_variables(model, 0, None, source, here, said.append)
    assert f'load_from = {source}: has other classes' in said[0]
    assert '2 of 3 classes keep their rows: blue, red; new: moon' in said[0]
    old = weights['bbox_head.atss_cls.weight']
    new = mmdet.to_state_dict(variables)['bbox_head.atss_cls.weight']
    np.testing.assert_array_equal(new[[0, 2]], old[[2, 0]])
    assert np.std(new[1]) < 0.02 < np.std(old)


def test_weights_by_name_that_are_not_there(zoo, here):
    model = build_model(load_config('atss_r50_1x'))
    with pytest.raises(ValueError, match='or a model that `atss models` lists; did'):
        initial_variables(model, 0, None, 'atss_r50_fpn_1x', ())
    with pytest.raises(ValueError, match="no model named 'x'"):
        initial_variables(model, 0, None, 'mmdet://x', ())


@pytest.mark.slow
def test_the_documented_command_fine_tunes_on_bccd(call, zoo, here, coco_tiny):
    """The golden weights stand in for the published ones; a few small images."""
    bccd = coco_tiny.parent / 'bccd'
    if not bccd.exists():
        pytest.skip('needs ../shared/data/bccd')
    publish(zoo, R50, '2.x')
    flags = ['--config=atss_r50_1x', f'--workdir={here / "bccd"}']
    flags += [f'--config.load_from=mmdet://{R50}']
    fields = {'model.bbox_head.num_classes': 3, 'data.max_boxes': 60}
    for split in ('train', 'val', 'test'):
        fields |= {
            f'data.{split}.ann_file': f'{bccd}/annotations/instances_{split}.json',
            f'data.{split}.img_prefix': f'{bccd}/images/',
            f'data.{split}.indices': 8,
            f'data.{split}.pipeline.img_scale': (160, 128),
        }
    fields |= {'data.samples_per_gpu': 1, 'data.workers_per_gpu': 0}
    fields |= {'total_epochs': 1, 'log_config.interval': 1}
    fields |= {'optimizer.lr': 0.001}
    flags += [f'--config.{name}={value!r}' for name, value in fields.items()]
    result = call('atss', 'train', *flags)
    assert result.status == 0, result.err
    assert '0 of 3 classes keep their rows: none; new: ' in result.out + result.err
    assert len(zoo.downloads) == 1


# Commands ----------------------------------------------------------------------------


def test_predict_by_name_address_and_workdir(call, zoo, small, small_data, here):
    """A second use downloads nothing; no folder of the model's name is made."""
    small()
    images = sorted((small_data / 'val').iterdir())[:3]
    (address,) = zoo.models['small']['addresses']
    call('atss', 'convert', 'mmdet://small', here / 'converted')
    written = []
    for number, flag in enumerate(
        ('--model=small', f'--model={address}', f'--workdir={here / "converted"}')
    ):
        out = here / f'out{number}'
        flags = flag, f'--out={out}', '--score_thr=0', '--no_pictures'
        result = call('atss', 'predict', *images, *flags)
        assert result.status == 0, result.err
        written.append(json.loads((out / 'detections.json').read_text()))
    assert written[0] == written[1] == written[2]
    assert len(written[0]) > 5
    assert len(zoo.downloads) == 1
    assert not (ROOT / 'small').exists()


def test_eval_by_name(call, zoo, small, small_data, here):
    """On data.test, unless another split is named; as from a workdir."""
    small()
    fields = '--config.data.test.indices=4'
    out = f'--out={here / "results"}'
    result = call('atss', 'eval', '--model=small', fields, out)
    assert result.status == 0, result.err
    assert 'mmdet://small on data.test, 4 images' in result.out
    scores = here / 'results' / 'test_small_scores.json'
    call('atss', 'convert', 'mmdet://small', here / 'converted')
    flags = f'--workdir={here / "converted"}', '--split=test', fields
    assert call('atss', 'eval', *flags, out).status == 0
    others = here / 'results' / 'test_0_scores.json'
    assert json.loads(scores.read_text()) == json.loads(others.read_text())
    found = here / 'results' / 'test_small_detections.json'
    others = here / 'results' / 'test_0_detections.json'
    assert json.loads(found.read_text()) == json.loads(others.read_text()) != []
    (file,) = zoo.cache.glob('small-*.pth')
    config = zoo.models['small']['config']
    flags = f'--workdir={file}', f'--model_config={zoo.file.parent / config}'
    result = call('atss', 'eval', *flags, fields, '--split=test', out)
    assert f'{file} on data.test, 4 images' in result.out
    assert len(zoo.downloads) == 1


def test_flags_that_do_not_go_together(call, zoo, small):
    small()
    for flags in (
        ('predict', 'x.jpg', '--model=small', '--workdir=w'),
        ('predict', 'x.jpg'),
        ('export', '--out=x.stablehlo'),
        ('eval', '--model=small', '--workdir=w'),
        ('eval', '--model=small', '--results=x.json'),
    ):
        result = call('atss', *flags)
        assert result.status == 2 and '--model' in result.err
    for command in (('eval',), ('predict', ROOT / 'docs' / 'demo.jpg')):
        result = call('atss', *command, '--model=work_dirs/mine')
        assert result.refuses("no model named 'work_dirs/mine'; there are small")


def test_models(call, zoo, small):
    small(ap=12.5, ap_by='me', source='https://me/page', parameters=3_130_000)
    assert ' small.json' not in call('atss', 'models').out  # its path is absolute
    lines = call('atss', 'models', '--sizes').out.splitlines()
    size = f'{len(next(iter(zoo.server.files.values()))) / 1e6:.1f} MB'
    cells = lines[1].split()
    assert cells[0] == 'small' and cells[-3:] == [*size.split(), 'no']
    assert '12.5 me' in lines[1] and '3.1 M' in lines[1] and ' ? ' in lines[1]
    assert '  me: https://me/page' in lines
    assert zoo.server.requests and not zoo.cache.exists()
    load_weights('small')
    result = call('atss', 'models')
    assert result.out.splitlines()[1].split()[-3:] == [*size.split(), 'yes']
    for name in SHIPPED:
        assert f'\n{name} ' in result.out
    assert f'The cache is {zoo.cache}' in result.out
