"""Starting from a detector of other classes: which rows of the class layer stay."""

import json
import math

import jax
import numpy as np
import pytest

from atss_jax.config import build_model
from atss_jax.optim.sgd import sgd
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.initial import initial_variables
from atss_jax.training.state import create_state
from atss_jax.training.step import OptimizerConfig
from atss_jax.weights import mmdet
from atss_jax.weights.torch_file import pth
from tests.support.small import random_variables, small_model
from tests.support.small_run import first_state, small_config

THERE = ('cat', 'dog', 'bus')
TWO_ANCHORS = {'num_anchors': 2}


def model_of(count, head=None):
    return small_model(head={'num_classes': count, **(head or {})})


def class_layer(variables):
    """(k,k,in,A,C) kernel and (A,C) bias, with two anchors a cell."""
    layer = variables['params']['bbox_head']['atss_cls']
    return [x.reshape(*x.shape[:-1], 2, -1) for x in (layer['kernel'], layer['bias'])]


def rest(variables):
    """All but the class layer, by name."""
    weights = mmdet.to_state_dict(variables)
    return {name: x for name, x in weights.items() if 'atss_cls' not in name}


def write_pth(path, variables, meta):
    pth.save(path, {'meta': meta, 'state_dict': mmdet.to_state_dict(variables)})
    return str(path)


def write_workdir(path, variables, model, classes):
    """A workdir with one checkpoint of these weights."""
    state = create_state(variables, model, sgd(OptimizerConfig(), lambda step: 0.1))
    checkpoints = Checkpoints(str(path))
    checkpoints.save(state, {'AP': 0.5})
    checkpoints.close()
    (path / 'stream.json').write_text(json.dumps({'classes': list(classes)}))
    return str(path)


@pytest.fixture(scope='module')
def there():
    """Weights for THERE."""
    return random_variables(model_of(3, TWO_ANCHORS))


def load(path, classes, said, count=None):
    model = model_of(count or len(classes), TWO_ANCHORS)
    return initial_variables(model, 5, None, path, classes, said.append)


METAS = [
    {'CLASSES': THERE},
    {'CLASSES': list(THERE)},
    {'dataset_meta': {'classes': THERE, 'palette': [(1, 2, 3)]}},
    {'dataset_meta': {'CLASSES': THERE}},
]


@pytest.mark.parametrize('form', [*range(len(METAS)), 'workdir'])
def test_classes_of_the_same_name_keep_their_rows(there, tmp_path, form):
    if form == 'workdir':
        model = model_of(3, TWO_ANCHORS)
        path = write_workdir(tmp_path / 'run', there, model, THERE)
    else:
        path = write_pth(tmp_path / 'x.pth', there, METAS[form])
    said = []
    here = ('bus', 'ant', 'cat', 'bee')
    found = load(path, here, said)
    old, new = class_layer(there), class_layer(found)
    for before, after in zip(old, new, strict=True):
        np.testing.assert_array_equal(after[..., 0], before[..., 2])
        np.testing.assert_array_equal(after[..., 2], before[..., 0])
    kernel, bias = new
    np.testing.assert_allclose(bias[..., [1, 3]], -math.log(99), rtol=1e-6)
    drawn = kernel[..., [1, 3]]
    assert abs(drawn.std() - 0.01) < 0.001 and abs(drawn.mean()) < 0.001
    assert len(np.unique(drawn)) > 0.9 * drawn.size
    for name, value in rest(found).items():
        np.testing.assert_array_equal(value, rest(there)[name], err_msg=name)
    (words,) = said
    assert f'load_from = {path}' in words
    assert '2 of 4 classes keep their rows: bus, cat; new: ant, bee' in words


def test_the_same_classes_are_taken_as_they_are(there, tmp_path):
    said = []
    found = load(write_pth(tmp_path / 'x.pth', there, METAS[0]), THERE, said)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(there), strict=True):
        np.testing.assert_array_equal(a, b)
    assert said == []


def test_the_same_classes_in_another_order_swap_their_rows(there, tmp_path):
    said = []
    found = load(write_pth(tmp_path / 'x.pth', there, METAS[0]), THERE[::-1], said)
    for before, after in zip(class_layer(there), class_layer(found), strict=True):
        np.testing.assert_array_equal(after, before[..., ::-1])
    assert '3 of 3 classes keep their rows' in said[0] and 'new: none' in said[0]


@pytest.mark.parametrize('meta', [{}, {'epoch': 3}, {'CLASSES': None}])
def test_without_names_another_number_starts_anew(there, tmp_path, meta):
    said = []
    found = load(write_pth(tmp_path / 'x.pth', there, meta), ('cat', 'dog'), said)
    kernel, bias = class_layer(found)
    np.testing.assert_allclose(bias, -math.log(99), rtol=1e-6)
    assert abs(kernel.std() - 0.01) < 0.001
    assert '3 classes without names, the data has 2' in said[0]
    assert 'the class layer, which is initialized anew' in said[0]


def test_without_names_the_same_number_is_taken_as_it_is(there, tmp_path):
    said = []
    found = load(write_pth(tmp_path / 'x.pth', there, {}), ('a', 'b', 'c'), said)
    for a, b in zip(class_layer(found), class_layer(there), strict=True):
        np.testing.assert_array_equal(a, b)
    assert 'does not name its classes' in said[0]


def test_one_class_in_the_style_of_mmdet_2(tmp_path):
    one = random_variables(model_of(1, TWO_ANCHORS))
    said = []
    found = load(
        write_pth(tmp_path / 'x.pth', one, {'CLASSES': 'cell'}), ('cell',), said
    )
    assert said == []
    np.testing.assert_array_equal(class_layer(found)[0], class_layer(one)[0])


def test_new_rows_follow_the_seed(there, tmp_path):
    path = write_pth(tmp_path / 'x.pth', there, {})
    model = model_of(2, TWO_ANCHORS)
    drawn = [
        class_layer(initial_variables(model, seed, None, path, ('a', 'b'), len))[0]
        for seed in (0, 0, 1)
    ]
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert not np.array_equal(drawn[0], drawn[2])


def test_names_that_do_not_go_with_the_weights_are_refused(there, tmp_path):
    path = write_pth(tmp_path / 'x.pth', there, {'CLASSES': ('cat', 'dog')})
    with pytest.raises(ValueError, match='names 2 classes, but has 3'):
        load(path, ('cat', 'dog'), [])


def test_another_body_is_still_refused(there, tmp_path):
    path = write_pth(tmp_path / 'x.pth', there, METAS[0])
    with pytest.raises(ValueError, match='weights do not fit the model'):
        model = model_of(2, {'stacked_convs': 2, **TWO_ANCHORS})
        initial_variables(model, 0, None, path, ('cat', 'dog'), print)


def test_many_names_are_listed_briefly(there, tmp_path):
    said = []
    names = tuple(f'class {i}' for i in range(50))
    load(write_pth(tmp_path / 'x.pth', there, METAS[0]), names, said)
    assert 'class 9 and 40 more' in said[0] and 'class 10' not in said[0]


def test_training_starts_from_a_run_of_other_classes(small_data, tmp_path, capsys):
    """Through the config: two of the three classes, and a run of three others."""
    wanted = {f'data.{split}.classes': ('blue', 'red') for split in ('train', 'val')}
    wanted |= {'data.test.classes': ('blue', 'red'), 'model.bbox_head.num_classes': 2}
    config = small_config(small_data, wanted)
    model = build_model(small_config(small_data))
    variables = random_variables(model)
    path = write_workdir(tmp_path / 'run', variables, model, ('red', 'x', 'blue'))
    config.load_from = path
    state = first_state(config, tmp_path / 'mine')
    bias = state.params['bbox_head']['atss_cls']['bias']
    before = variables['params']['bbox_head']['atss_cls']['bias']
    np.testing.assert_array_equal(bias, before[[2, 0]])
    assert '2 of 2 classes keep their rows: blue, red' in capsys.readouterr().err
