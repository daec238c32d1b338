"""Parts of ONNX graphs that can break alone, against the functions in JAX."""

import math

import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.postprocess import DetectConfig, suppress
from atss_jax.inference.onnx_file import norms, postprocess, region, window_attention
from atss_jax.inference.onnx_file.dyhead import _Rereading
from atss_jax.inference.onnx_file.layers import Conv, modulated_deform_conv
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models import region as jax_region
from atss_jax.models import windows as jax_windows
from atss_jax.models.deform_conv import modulated_deform_conv as jax_deform_conv
from atss_jax.models.reread import reread
from tests.support.onnx_models import run_graph

pytestmark = pytest.mark.onnx
pytest.importorskip('onnxruntime')

SIZES = np.array([[5, 12], [8, 7], [1, 1]])
"""Valid rows and columns of three images on a map of 8 x 12 cells."""


def region_of(g, x, size):
    """The region of maps (B,C,H,W)."""
    height, width = (g.op('Shape', x, start=i, end=i + 1) for i in (2, 3))
    return Region(g, size, height, width, 1)


def to_jax(x):
    """(B,C,H,W) as (B,H,W,C)."""
    return jnp.asarray(x.transpose(0, 2, 3, 1))


def from_jax(x):
    return np.asarray(x).transpose(0, 3, 1, 2)


def assert_equal_inside(ours, theirs, sizes, atol):
    for one, other, (rows, columns) in zip(ours, theirs, sizes, strict=True):
        inside = np.s_[:, :rows, :columns]
        np.testing.assert_allclose(one[inside], other[inside], atol=atol)


# Regions -----------------------------------------------------------------------------


def test_masks_of_hand_worked_sizes():
    """5 pixels are 3 cells at stride 2, and 2 at stride 4."""

    def write(g, inputs):
        canvas = region_of(g, inputs['x'], inputs['size'])
        quarter = region.region_at(canvas, 4)
        return canvas.half.mask, quarter.mask, quarter.count

    x, size = np.zeros((1, 1, 8, 12), np.float32), np.array([[5, 12]])
    half, quarter, count = run_graph(write, {'x': x, 'size': size})
    assert half.shape == (1, 1, 4, 6) and half.sum((2, 3)) == 3 * 6
    assert quarter[0, 0].tolist() == [[1, 1, 1], [1, 1, 1]] and count == 6


@pytest.mark.parametrize('divisor', [1, 4])
def test_regions_are_rounded_up_but_not_beyond_the_canvas(divisor):
    def write(g, inputs):
        height, width = g.constant([8]), g.constant([12])
        canvas = Region(g, inputs['size'], height, width, divisor)
        return (canvas.rounded_up.size,)

    (size,) = run_graph(write, {'size': np.array([[5, 12], [9, 1]])})
    expected = {1: [[5, 12], [8, 1]], 4: [[8, 12], [8, 4]]}
    assert size.tolist() == expected[divisor]


def test_a_map_is_masked_once():
    def write(g, inputs):
        valid = region_of(g, inputs['x'], inputs['size'])
        once = valid.zero_outside(inputs['x'])
        assert valid.zero_outside(inputs['x']) == valid.zero_outside(once) == once
        return (once,)

    x = np.ones((3, 2, 8, 12), np.float32)
    (masked,) = run_graph(write, {'x': x, 'size': SIZES})
    assert masked.sum((1, 2, 3)).tolist() == [2 * 5 * 12, 2 * 8 * 7, 2]


def test_stretch():
    random = np.random.default_rng(0)
    x = random.normal(size=(3, 4, 8, 12)).astype(np.float32)
    other, canvas = np.array([[9, 2], [15, 20], [1, 3]]), np.zeros((1, 1, 16, 21))

    def write(g, inputs):
        old = region_of(g, inputs['x'], inputs['size'])
        new = region_of(g, inputs['canvas'], inputs['other'])
        return (region.stretch(g, inputs['x'], old, new),)

    inputs = {'x': x, 'size': SIZES, 'other': other, 'canvas': canvas}
    (ours,) = run_graph(write, inputs)
    sizes = jnp.asarray(SIZES, jnp.int32), jnp.asarray(other, jnp.int32)
    theirs = jax_region.stretch(to_jax(x), *sizes, (16, 21))
    assert_equal_inside(ours, from_jax(theirs), other, 1e-5)


# Norms -------------------------------------------------------------------------------


def test_group_norm_counts_valid_cells_only():
    """Against float64; the mean is large, and what is outside is larger."""
    random = np.random.default_rng(0)
    x = random.normal(30, 1, (3, 8, 8, 12)).astype(np.float32)
    scale, bias = random.normal(size=(2, 8)).astype(np.float32)
    for image, (rows, columns) in zip(x, SIZES, strict=True):
        image[:, rows:] = image[:, :, columns:] = 1000

    def write(g, inputs):
        valid = region_of(g, inputs['x'], inputs['size'])
        return (norms.group_norm(g, 'norm', inputs['x'], valid, 4),)

    variables = {'params': {'norm': {'scale': scale, 'bias': bias}}}
    (ours,) = run_graph(write, {'x': x, 'size': SIZES}, variables)
    expected = np.zeros(x.shape)
    for row, (rows, columns) in enumerate(SIZES):
        groups = x[row, :, :rows, :columns].astype(float).reshape(4, -1)
        deviation = np.sqrt(groups.var(1, keepdims=True) + 1e-5)
        values = (groups - groups.mean(1, keepdims=True)) / deviation
        values = values.reshape(8, rows, columns)
        factor = scale[:, None, None], bias[:, None, None]
        expected[row, :, :rows, :columns] = values * factor[0] + factor[1]
    # The image of one cell has two numbers per group, of about 30.
    assert_equal_inside(ours, expected, SIZES, 3e-4)


# Deformable convolutions -------------------------------------------------------------


@pytest.mark.parametrize('spread', [0.3, 5.0])
@pytest.mark.parametrize(
    ('stride', 'groups', 'deform_groups'), [(1, 1, 1), (1, 4, 2), (2, 2, 1)]
)
def test_deformable_convolution(spread, stride, groups, deform_groups):
    """Offsets of 5 cells often lead out of the region, and off the map."""
    random = np.random.default_rng(1)
    x = random.normal(size=(3, 8, 8, 12)).astype(np.float32)
    kernel = random.normal(size=(3, 3, 8 // groups, 8)).astype(np.float32)
    grid = 8 // stride, 12 // stride
    taps = 9 * deform_groups
    offset = random.normal(0, spread, (3, 2 * taps, *grid)).astype(np.float32)
    mask = random.uniform(size=(3, taps, *grid)).astype(np.float32)

    def write(g, inputs):
        layer = Conv('conv', stride, groups, deform_groups)
        valid = region_of(g, inputs['x'], inputs['size'])
        taps = inputs['offset'], inputs['mask']
        return (modulated_deform_conv(g, layer, inputs['x'], valid, taps, kernel),)

    inputs = {'x': x, 'size': SIZES, 'offset': offset, 'mask': mask}
    (ours,) = run_graph(write, inputs)
    arrays = (*map(to_jax, (x, offset, mask)), jnp.asarray(kernel))
    theirs = jax_deform_conv(*arrays, jnp.asarray(SIZES, jnp.int32), stride)
    assert_equal_inside(ours, from_jax(theirs), -(-SIZES // stride), 1e-5)


def test_offsets_read_in_the_order_of_another_size():
    random = np.random.default_rng(2)
    x = random.normal(size=(3, 6, 8, 12)).astype(np.float32)
    other = -(-SIZES // 2)

    def write(g, inputs):
        valid = region_of(g, inputs['x'], inputs['size'])
        return (_Rereading(g).reread(inputs['x'], 6, valid, valid.half),)

    (ours,) = run_graph(write, {'x': x, 'size': SIZES})
    sizes = jnp.asarray(SIZES, jnp.int32), jnp.asarray(other, jnp.int32)
    theirs = from_jax(reread(to_jax(x), *sizes, (4, 6)))
    assert_equal_inside(ours, theirs, other, 0)


# Windows -----------------------------------------------------------------------------


@pytest.mark.parametrize('shift', [0, 1, 2])
@pytest.mark.parametrize('side', [3, 5, 12])
def test_windows_and_back(side, shift):
    """Into the windows that Flax makes of each image, and back to where it was."""
    random = np.random.default_rng(3)
    x = random.normal(size=(3, 2, 8, 12)).astype(np.float32)

    def write(g, inputs):
        valid = region_of(g, inputs['x'], inputs['size'])
        windows = window_attention.Windows(g, valid, side, shift)
        cells = g.transpose(g.reshape(inputs['x'], 0, 0, -1), 0, 2, 1)
        padded = g.op('Pad', cells, [0, 0, 0, 0, 1, 0])
        y = g.op('GatherND', padded, windows.into, batch_dims=1)
        back = g.op('GatherND', y, windows.back, batch_dims=1)
        return (y, back) if windows.apart is None else (y, back, windows.apart)

    inside, back, *apart = run_graph(write, {'x': x, 'size': SIZES})
    sizes = jnp.asarray(SIZES, jnp.int32)
    masked = jax_region.zero_outside(to_jax(x), sizes)
    padded = jax_windows.pad_to_multiple(masked, side)
    period = -(-sizes // side) * side
    rolled = jax_windows.roll_within(padded, period, shift) if shift else padded
    expected = np.asarray(jax_windows.partition(rolled, side)).reshape(3, -1, 2)
    np.testing.assert_array_equal(inside, expected)
    np.testing.assert_array_equal(back.reshape(masked.shape), masked)
    if shift:
        grid = padded.shape[1:3]
        regions = jax_windows.shifted_regions(period, grid, side, shift)
        regions = np.asarray(regions).reshape(-1, 1, side**2)
        different = regions[..., :, None] != regions[..., None, :]
        np.testing.assert_array_equal(apart[0], np.where(different, -100.0, 0.0))


# Suppression -------------------------------------------------------------------------


def nms(boxes, scores, labels, threshold, count, with_nms=True):
    """Detections of one image by the graph and by JAX; a score of -1: no candidate."""
    config = DetectConfig(iou_threshold=threshold, max_per_img=count, with_nms=with_nms)

    def write(g, inputs):
        tensors = (inputs[name] for name in ('boxes', 'scores', 'labels'))
        candidates = postprocess.Candidates(*tensors)
        return postprocess.class_wise_nms(g, candidates, 3, config)

    arrays = np.float32(boxes), np.float32(scores), np.array(labels)
    inputs = dict(zip(('boxes', 'scores', 'labels'), arrays, strict=True))
    graph = run_graph(write, {name: value[None] for name, value in inputs.items()})
    valid = arrays[1] >= 0
    jax_inputs = (*map(jnp.asarray, arrays[:2]), jnp.asarray(arrays[2], jnp.int32))
    theirs = suppress(*jax_inputs, jnp.asarray(valid), config, count)
    return [x[0] for x in graph], [np.asarray(x) for x in theirs]


def assert_same(ours, theirs):
    boxes, scores, labels, num = ours
    for column, other in zip((boxes, scores, labels), theirs, strict=False):
        np.testing.assert_array_equal(column, other)
    assert num == theirs[3].sum()


def test_suppression_of_random_boxes():
    random = np.random.default_rng(4)
    for threshold in (0.3, 0.6):
        low = random.uniform(0, 60, (300, 2))
        boxes = np.concatenate([low, low + random.uniform(5, 40, (300, 2))], 1)
        # Few different scores, so that there are many ties.
        scores = random.integers(-3, 30, 300) / 30
        scores[scores < 0] = -1
        labels = random.integers(0, 3, 300)
        for count in (20, 100, 400):
            assert_same(*nms(boxes, scores, labels, threshold, count))


def test_ties_empty_boxes_and_the_threshold_itself():
    """The lower index comes first; an overlap equal to the threshold is allowed."""
    unit, half = [0, 0, 4, 4], [0, 0, 4, 2]  # IoU 0.5
    boxes = [unit, unit, half, [1, 1, 1, 3], [1, 1, 1, 3], [9, 9, 9, 9]]
    scores, labels = [0.5, 0.5, 0.4, 0.3, 0.3, 0.2], [0] * 6
    ours, theirs = nms(boxes, scores, labels, 0.5, 10)
    assert_same(ours, theirs)
    assert ours[3] == 5  # all but the second
    ours, theirs = nms(boxes, scores, labels, 0.49, 10)
    assert_same(ours, theirs)
    assert ours[3] == 4


def test_no_candidate_at_all():
    ours, theirs = nms([[0, 0, 4, 4]] * 2, [-1, -1], [0, 1], 0.5, 3)
    assert_same(ours, theirs)
    assert ours[3] == 0 and not any(x.any() for x in ours)


def test_without_nms():
    boxes, scores = [[0, 0, 4, 4]] * 4, [0.5, -1, 0.7, 0.7]
    ours, theirs = nms(boxes, scores, [0, 0, 1, 0], 0.5, 10, with_nms=False)
    assert_same(ours, theirs)
    assert ours[3] == 3 and ours[2][:3].tolist() == [1, 0, 0]


def test_thresholds_of_floats():
    """The IoU of float32 boxes is just below, at, or just above the threshold."""
    for width in np.nextafter(np.float32(3), [0, 3, 9], dtype=np.float32):
        boxes = [[0, 0, 5, 1], [0, 0, width, 1]]
        assert_same(*nms(boxes, [0.9, 0.8], [0, 0], float(np.float32(0.6)), 2))
        assert math.isclose(width / 5, 0.6, rel_tol=1e-6)
