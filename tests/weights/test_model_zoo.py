"""The data of the model zoo, and models that users add to it."""

import json

import pytest

from atss_jax.config import build_model, load_config
from atss_jax.files.cached import digits_in_name, name_in
from atss_jax.models.cost import CUSTOMARY, cost
from atss_jax.models.detector import parameter_count
from atss_jax.structures import round_up
from atss_jax.weights import model_zoo

ROOT = 'https://download.openmmlab.com/mmdetection/v2.0/'
# mmdetection 3.3.0, configs/atss/metafile.yml and configs/dyhead/metafile.yml.
PUBLISHED = {
    'atss_r50_fpn_1x_coco': (
        39.4,
        'atss/atss_r50_fpn_1x_coco/atss_r50_fpn_1x_coco_20200209-985f7bd0.pth',
    ),
    'atss_r101_fpn_1x_coco': (
        41.5,
        'atss/atss_r101_fpn_1x_coco/atss_r101_fpn_1x_20200825-dfcadd6f.pth',
    ),
    'atss_r50-caffe_fpn_dyhead_1x_coco': (
        42.5,
        'dyhead/atss_r50_fpn_dyhead_for_reproduction_1x_coco/'
        'atss_r50_fpn_dyhead_for_reproduction_4x4_1x_coco_20220107_213939-162888e6.pth',
    ),
    'atss_r50_fpn_dyhead_1x_coco': (
        43.3,
        'dyhead/atss_r50_fpn_dyhead_4x4_1x_coco/'
        'atss_r50_fpn_dyhead_4x4_1x_coco_20211219_023314-eaa620c6.pth',
    ),
    'atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco': (
        56.2,
        'dyhead/atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco/'
        'atss_swin-l-p4-w12_fpn_dyhead_mstrain_2x_coco_20220509_100315-bc5b6516.pth',
    ),
}


def test_all_that_mmdetection_publishes():
    models = model_zoo.models()
    assert list(models) == list(PUBLISHED)
    for name, (ap, file) in PUBLISHED.items():
        assert (models[name].ap, models[name].ap_by) == (ap, 'mmdetection')
        assert models[name].addresses == (ROOT + file,)


@pytest.mark.parametrize('model', model_zoo.models().values(), ids=lambda x: x.name)
def test_a_model_is_whole(model):
    """Those whose file has its hash in the name have the same in the data."""
    for address in model.addresses:
        assert address.startswith('https://')
        assert digits_in_name(name_in(address)) in (None, model.sha256[:8])
    assert model.source.startswith('https://') and model.classes == 'COCO'


@pytest.mark.parametrize('name', PUBLISHED)
def test_parameters_are_those_of_the_shipped_config(name):
    model = model_zoo.find(name)
    config = load_config(model.config)
    assert config.model.bbox_head.num_classes == 80
    assert parameter_count(build_model(config)) == model.parameters


@pytest.mark.slow
@pytest.mark.parametrize('name', PUBLISHED)
def test_multiply_adds_are_those_of_the_shipped_config(name):
    model = model_zoo.find(name)
    module = build_model(load_config(model.config))
    canvas = tuple(int(round_up(side, module.size_divisor)) for side in CUSTOMARY)
    counted = cost(module, [canvas])
    assert sum(counted.multiply_adds[canvas].values()) == model.multiply_adds


# Finding -----------------------------------------------------------------------------


def test_find_takes_both_forms():
    for name in PUBLISHED:
        assert model_zoo.find(name) == model_zoo.find(f'mmdet://{name}')


def test_an_unknown_name():
    with pytest.raises(
        ValueError, match="did you mean 'atss_r50_fpn_1x_coco'"
    ) as error:
        model_zoo.find('mmdet://atss_r50_fpn_1x')
    assert all(name in str(error.value) for name in PUBLISHED)
    with pytest.raises(ValueError, match="no model named 'yolo'; there are atss_r50"):
        model_zoo.find('yolo')


# Models of the user ------------------------------------------------------------------

MINE = {'config': 'mine.py', 'addresses': ['http://a/x.pth'], 'sha256': '0' * 64}


@pytest.fixture
def write(tmp_path, monkeypatch):
    """`write(content)`: a file of models, named by the environment."""
    file = tmp_path / 'models.json'
    monkeypatch.setenv('ATSS_JAX_MODELS', f'{file}')

    def write(content):
        file.write_text(json.dumps(content))
        return file

    return write


def test_models_of_the_user_come_first_and_replace(write, tmp_path, monkeypatch):
    name = 'atss_r50_fpn_1x_coco'
    write({'mine': MINE | {'classes': ['a', 'b']}, name: MINE})
    other = tmp_path / 'other.json'
    other.write_text(json.dumps({'other': MINE}))
    both = f'{tmp_path / "models.json"}{model_zoo.os.pathsep}{other}'
    monkeypatch.setenv('ATSS_JAX_MODELS', both)
    models = model_zoo.models()
    assert list(models)[:3] == ['mine', name, 'other']
    assert len(models) == len(PUBLISHED) + 2
    assert models['mine'].classes == ('a', 'b')
    assert models[name].config == str(tmp_path / 'mine.py')  # not a shipped config


@pytest.mark.parametrize(
    ('content', 'part'),
    [
        ([], 'expected an object with a model for each name'),
        ({'mine': 3}, 'mine: expected an object with the fields'),
        ({'mine': MINE | {'adress': 'x'}}, "expected an object with the fields ['conf"),
        ({'mine': {'config': 'x'}}, 'config, addresses and sha256 are required'),
        (
            {'mine': MINE | {'addresses': 'http://a'}},
            "addresses = 'http://a': expected",
        ),
        ({'mine': MINE | {'addresses': []}}, 'addresses = (): expected a list of'),
        ({'mine': MINE | {'addresses': ['ftp://a/x.pth']}}, 'http:// or https://'),
        ({'mine': MINE | {'addresses': [1]}}, 'addresses = (1,): expected a list of'),
        ({'mine': MINE | {'sha256': 'abc'}}, "sha256 = 'abc': expected the SHA-256"),
        ({'mine': MINE | {'sha256': 'xyz' * 8}}, 'or its first 8 digits or more'),
        ({'mine': MINE | {'config': 3}}, 'config = 3: expected the name of a shipped'),
        ({'mine': MINE | {'classes': 'cat'}}, "classes = 'cat': expected a list of"),
        ({'mine': MINE | {'classes': None}}, 'classes = None: expected a list of'),
        ({'mine': MINE | {'parameters': 'many'}}, "parameters = 'many': expected a wh"),
        ({'mine': MINE | {'ap': True}}, 'ap = True: expected a number'),
    ],
)
def test_a_malformed_file_is_named(write, content, part):
    file = write(content)
    with pytest.raises(ValueError) as error:
        model_zoo.models()
    assert str(file) in str(error.value) and part in str(error.value)


def test_a_file_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_MODELS', str(tmp_path / 'none.json'))
    with pytest.raises(FileNotFoundError, match=r'none\.json: .* \$ATSS_JAX_MODELS'):
        model_zoo.models()
