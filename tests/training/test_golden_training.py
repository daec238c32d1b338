"""mmdetection's losses, gradients and five SGD steps of R50, on the golden weights.

The losses are computed on a canvas much larger than the images, where they must be
the same; the steps on the tight one, by the real training step.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from atss_jax.detection.losses import LossConfig, atss_loss, level_losses
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.schedule import LrConfig, learning_rates, schedule
from atss_jax.optim.sgd import sgd
from atss_jax.structures import BATCH_AXIS, HeadOutputs
from atss_jax.training.state import create_state, is_trained
from atss_jax.training.step import make_train_step
from atss_jax.weights import mmdet
from tests.conftest import GOLDEN
from tests.support.recipes import relative_error
from tests.support.small import (
    golden_forward,
    golden_model,
    golden_variables,
    on_canvas,
)

CANVAS = (160, 192)
NAMES = ('loss_cls', 'loss_bbox', 'loss_centerness')


@functools.cache
def stored(name):
    return dict(np.load(GOLDEN / f'{name}.npz'))


def targets(data, prefix=''):
    """Sizes and boxes of the two images of a golden file, as a batch."""
    images = data[f'{prefix}images']
    batch = {
        'image_size': np.full((2, 2), images.shape[1:3], np.int32),
        'gt_boxes': np.zeros((2, 8, 4), np.float32),
        'gt_labels': np.zeros((2, 8), np.int32),
        'gt_valid': np.zeros((2, 8), bool),
        'gt_ignored': np.zeros((2, 8), bool),
    }
    for i in range(2):
        boxes = data[f'{prefix}gt_bboxes{i}']
        batch['gt_boxes'][i, : len(boxes)] = boxes
        batch['gt_labels'][i, : len(boxes)] = data[f'{prefix}gt_labels{i}']
        batch['gt_valid'][i, : len(boxes)] = True
    return jax.tree.map(jnp.array, batch)


@functools.cache
def _losses():
    def losses(outputs, batch):
        gradient = jax.grad(lambda o: atss_loss(o, batch)[0])(outputs)
        return level_losses(outputs, batch), gradient

    return jax.jit(losses)


@functools.cache
def losses(name, prefix=''):
    """Losses by level and gradients at the head's outputs."""
    data = stored(name)
    images, sizes = on_canvas(data[f'{prefix}images'])
    outputs, _, _ = golden_forward()(images, sizes)
    return jax.tree.map(np.asarray, _losses()(outputs, targets(data, prefix)))


@pytest.mark.parametrize('name', NAMES)
def test_losses_of_each_level(name):
    ours, _ = losses('loss')
    assert relative_error(ours[name], stored('loss')[name]) < 1e-4
    np.testing.assert_allclose(ours[name], stored('loss')[name], rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize('level', range(5))
@pytest.mark.parametrize('name', ['cls', 'reg', 'ctr'])
def test_gradients_at_the_head_outputs(name, level):
    _, gradient = losses('loss')
    outputs = HeadOutputs(*gradient)[['cls', 'reg', 'ctr'].index(name)]
    key, data = f'grad_{name}{level}', stored('loss')
    shape = data[f'{key}/shape']
    ours = outputs[level][:, : shape[1], : shape[2]]
    assert not outputs[level][:, shape[1] :].any()
    assert not outputs[level][:, :, shape[2] :].any()
    values = data[f'{key}/values']
    scale = float(max(np.abs(values).max(), data[f'{key}/std'], 1e-12))
    samples = ours.reshape(-1)[data[f'{key}/idx']]
    assert np.abs(samples - values).max() < 1e-4 * scale
    assert ours.std() == pytest.approx(data[f'{key}/std'], rel=1e-4)
    assert ours.mean() == pytest.approx(data[f'{key}/mean'], abs=1e-4 * scale)


@pytest.mark.parametrize('prefix', ['0/', '1/'], ids=['one_empty', 'both_empty'])
def test_losses_without_boxes(prefix):
    ours, gradient = losses('edge_loss', prefix)
    data = stored('edge_loss')
    for name in NAMES:
        np.testing.assert_allclose(
            ours[name], data[prefix + name], rtol=1e-4, atol=1e-7
        )
    if prefix == '1/':
        assert not ours['loss_bbox'].any() and not ours['loss_centerness'].any()
        for level in gradient.deltas + gradient.centerness:
            assert not level.any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


# Steps -------------------------------------------------------------------------------


@functools.cache
def _step():
    """The real step on one device; its images are already normalized."""
    rates = learning_rates(0.01, LrConfig(warmup_iters=4, warmup_ratio=0.1), 5, 1)
    tx = sgd(OptimizerConfig(), schedule(rates))
    step = make_train_step(
        golden_model(),
        lambda images, sizes: images,
        LossConfig(),
        OptimizerConfig(),
        tx,
    )
    mapped = jax.pmap(
        step,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=None,
        devices=jax.devices()[:1],
    )
    return mapped, create_state(golden_variables(), golden_model(), tx)


def one_step(state, name, prefix=''):
    data = stored(name)
    batch = targets(data, prefix)
    batch['image'] = on_canvas(data[f'{prefix}images'], CANVAS)[0]
    return _step()[0](state, jax.tree.map(lambda x: x[None], batch))


@functools.cache
def first_step():
    return one_step(_step()[1], 'loss')


@functools.cache
def trajectory():
    """Metrics of five steps, and the last state."""
    state, metrics = first_step()
    history = [metrics]
    for _ in range(4):
        state, metrics = one_step(state, 'loss')
        history.append(metrics)
    return history, state


@functools.cache
def gradients():
    """Torch name to gradient, from the momentum after the first step, `g + decay*w`."""
    momentum = mmdet.to_state_dict({'params': first_step()[0].momentum[1].trace})
    weights = mmdet.to_state_dict({'params': golden_variables()['params']})
    return {
        name: buffer.astype(np.float64) - 1e-4 * weights[name].astype(np.float64)
        for name, buffer in momentum.items()
    }


def test_gradient_norm_of_every_parameter():
    names, norms = (stored('loss')[f'grad_{x}'] for x in ('names', 'norms'))
    assert set(gradients()) == set(names.tolist())
    for name, norm in zip(names.tolist(), norms, strict=True):
        ours = np.linalg.norm(gradients()[name])
        assert ours == pytest.approx(norm, rel=1e-3, abs=1e-7), name
    total = np.sqrt((norms**2).sum())
    assert float(first_step()[1]['grad_norm']) == pytest.approx(total, rel=1e-4)


def test_gradient_samples():
    """At indices drawn from the parameter's name, in torch layout."""
    checked = 0
    for name, gradient in gradients().items():
        if f'grad/{name}' not in stored('loss'):
            continue
        rng, size = np.random.RandomState(zlib.crc32(name.encode())), gradient.size
        index = rng.randint(0, size, min(64, size))[:8]
        expected = stored('loss')[f'grad/{name}']
        rms = np.linalg.norm(gradient) / np.sqrt(size)
        error = np.abs(gradient.reshape(-1)[index][: len(expected)] - expected).max()
        assert error < 1e-2 * max(rms, np.abs(expected).max()) + 1e-8, name
        checked += 1
    assert checked > 20


def test_frozen_parameters_are_mmdets():
    flat = flatten_dict(golden_variables()['params'])
    frozen = {
        mmdet.torch_name(('params', *path))
        for path in flat
        if not is_trained(path, golden_model())
    }
    assert frozen == set(stored('loss')['frozen_names'].tolist())


def test_five_steps_of_sgd():
    history, _ = trajectory()
    ours = [[float(metrics[name]) for name in NAMES] for metrics in history]
    expected = stored('loss')['trajectory']
    np.testing.assert_allclose(ours, expected, rtol=0.01)
    np.testing.assert_allclose(ours[:2], expected[:2], rtol=1e-4)
    for metrics in history:
        total = sum(float(metrics[name]) for name in NAMES)
        assert float(metrics['loss']) == pytest.approx(total, rel=1e-6)


def test_weights_after_five_steps():
    _, state = trajectory()
    ours = mmdet.to_state_dict({'params': state.params})
    names, norms = (stored('loss')[f'final_{x}'] for x in ('names', 'norms'))
    for name, norm in zip(names.tolist(), norms, strict=True):
        assert np.linalg.norm(ours[name]) == pytest.approx(norm, rel=0.01), name


def test_frozen_parameters_and_statistics_keep_every_bit():
    _, state = trajectory()
    assert int(state.step) == 5 and bool(state.healthy)
    before = flatten_dict(golden_variables())
    after = flatten_dict(jax.tree.map(np.asarray, state.variables))
    for path, value in before.items():
        trained = path[0] == 'params' and is_trained(path[1:], golden_model())
        assert np.array_equal(value, after[path]) != trained, path


@pytest.mark.parametrize('prefix', ['0/', '1/'], ids=['one_empty', 'both_empty'])
def test_step_without_boxes_is_finite(prefix):
    state, metrics = one_step(_step()[1], 'edge_loss', prefix)
    assert bool(state.healthy)
    assert all(np.isfinite(value) for value in metrics.values())
    for name in NAMES:
        expected = stored('edge_loss')[prefix + name].sum()
        assert float(metrics[name]) == pytest.approx(expected, rel=1e-4, abs=1e-7)
