"""Assignment: by hand, mmdetection's 81 golden cases, and a dense plain loop.

The package looks at a window of cells around each box. The oracle looks at all anchors.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.assign import ATSSAssigner, assign, valid_cells
from tests.support import oracles

DEFAULT, ATSS = AnchorGenerator(), ATSSAssigner()


@functools.cache
def _compiled(canvas, anchors, assigner):
    return jax.jit(
        lambda boxes, valid, size: assign(
            boxes, valid, size, canvas, anchors=anchors, assigner=assigner
        )
    )


def owners(boxes, size, canvas, anchors=DEFAULT, assigner=ATSS, capacity=24, fill=0.0):
    """`assign`, with boxes padded to `capacity` rows of `fill`: few compilations."""
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    padded = np.full((max(capacity, len(boxes)), 4), fill, np.float32)
    padded[: len(boxes)] = boxes
    valid = np.arange(len(padded)) < len(boxes)
    function = _compiled(canvas, anchors, assigner)
    return np.asarray(function(padded, valid, np.array(size, np.int32)))


def expected(boxes, size, canvas, anchors=DEFAULT, assigner=ATSS):
    grid = oracles.all_anchors(
        canvas,
        anchors.strides,
        anchors.ratios,
        anchors.octave_base_scale,
        anchors.scales_per_octave,
        anchors.center_offset,
    )
    valid_size = [-(-side // 32) * 32 for side in size]
    border = assigner.allowed_border
    counted = [
        oracles.is_counted(anchor, size, valid_size, anchors.strides, border)
        for anchor in grid
    ]
    return oracles.assign(boxes, grid, counted, assigner.topk)


def check(boxes, size, canvas, anchors=DEFAULT, assigner=ATSS):
    """Equal to the oracle wherever rounding does not decide; returns the owners."""
    ours = owners(boxes, size, canvas, anchors, assigner)
    theirs, unsure = expected(boxes, size, canvas, anchors, assigner)
    np.testing.assert_array_equal(ours[~unsure], theirs[~unsure])
    assert unsure.mean() < 0.05
    return ours


# By hand -----------------------------------------------------------------------------


def test_one_level_by_hand():
    """4 x 4 cells of stride 8, anchors of side 16; a box exactly on the one at (1, 1).

    Of the three nearest, itself and two neighbors, IoUs are 1, 1/3 and 1/3: mean 5/9,
    deviation 0.385, threshold 0.94. Only the anchor itself passes.
    """
    anchors = AnchorGenerator((8,), octave_base_scale=2.0)
    got = owners([[0, 0, 16, 16]], (32, 32), (32, 32), anchors, ATSSAssigner(topk=3))
    np.testing.assert_array_equal(np.flatnonzero(got >= 0), [1 * 4 + 1])


def test_center_on_the_side_of_the_box_is_outside_by_hand():
    """The box of 16 at (0, 0) holds the center (8, 8) alone in its inside."""
    anchors = AnchorGenerator((8,), octave_base_scale=2.0)
    got = owners([[0, 0, 16, 16]], (32, 32), (32, 32), anchors, ATSSAssigner(topk=16))
    # Sixteen candidates have a low threshold; the neighbors' centers are on the side.
    np.testing.assert_array_equal(np.flatnonzero(got >= 0), [5])


def test_anchor_claimed_twice_goes_to_the_higher_iou_then_the_first_box():
    box, larger = [0, 0, 16, 16], [-1, -1, 17, 17]
    anchors = AnchorGenerator((8,), octave_base_scale=2.0)
    for boxes, owner in [
        ([larger, box], 1),
        ([box, larger], 0),
        ([box, box], 0),
    ]:
        got = owners(boxes, (32, 32), (32, 32), anchors, ATSSAssigner(topk=3))
        assert got[5] == owner


def test_single_candidate_gives_no_positive():
    """Its deviation is 0/0, as PyTorch's; nothing passes."""
    anchors = AnchorGenerator((32,), octave_base_scale=2.0)
    assert (owners([[1, 1, 31, 31]], (32, 32), (32, 32), anchors) == -1).all()


def test_no_boxes_at_all():
    got = jax.jit(
        lambda: assign(
            jnp.zeros((0, 4)), jnp.zeros(0, bool), jnp.array([64, 64]), (64, 64)
        )
    )()
    assert got.shape == (len(DEFAULT.all((64, 64))),) and (got == -1).all()


# Golden ------------------------------------------------------------------------------


KEYS = (
    'gt_bboxes',
    'gt_labels',
    'img_shape',
    'pad_shape',
    'batch_shape',
    'pos_anchor',
    'pos_label',
    'pos_target',
    'num_valid',
    'avg_factor',
)


@pytest.mark.parametrize('case', range(81))
def test_equals_mmdet(golden, golden_assign, case):
    name = f'{case}/'
    data = {key: golden_assign[name + key] for key in KEYS}
    canvas = tuple(int(side) for side in data['batch_shape'])
    got = owners(data['gt_bboxes'], data['img_shape'], canvas, capacity=150)
    positive = np.flatnonzero(got >= 0)
    np.testing.assert_array_equal(positive, data['pos_anchor'])
    owner = got[positive]
    np.testing.assert_array_equal(data['gt_labels'][owner], data['pos_label'])
    targets = data['gt_bboxes'].reshape(-1, 4)[owner]
    np.testing.assert_array_equal(targets, data['pos_target'].reshape(-1, 4))
    assert max(len(positive), 1) == data['avg_factor']
    cells = 0
    for level in range(5):
        size, valid = (jnp.array(data[k]) for k in ('img_shape', 'pad_shape'))
        first, stop = np.asarray(valid_cells(DEFAULT, ATSS, level, size, valid))[0]
        cells += (stop - first).prod()
    assert cells == data['num_valid']


@pytest.fixture(scope='module')
def golden_assign(golden):
    return dict(golden('assign'))


# The dense plain loop ----------------------------------------------------------------

CANVAS, SIZE = (96, 160), (70, 120)  # valid region 96 x 128: smaller than the canvas


def random_boxes(rng, n, size):
    height, width = size
    center = rng.uniform(0, [width, height], (n, 2))
    sides = np.exp(rng.uniform(np.log(2), np.log(200), (n, 2)))
    return np.concatenate([center - sides / 2, center + sides / 2], 1)


def clipped(boxes, size):
    return np.clip(boxes, 0, [size[1], size[0]] * 2)


@pytest.mark.parametrize('seed', range(6))
def test_random_boxes_equal_the_oracle(seed):
    rng = np.random.default_rng(seed)
    boxes = clipped(random_boxes(rng, [2, 3, 8, 12, 24, 24][seed], SIZE), SIZE)
    got = check(boxes, SIZE, CANVAS)
    assert (got >= 0).any()


def hostile_boxes():
    rng = np.random.default_rng(0)
    plain = random_boxes(rng, 12, SIZE)
    grid = rng.integers(0, 15, (12, 2)) * 8.0  # centers on cells: many equal distances
    height, width = SIZE
    thin = np.array([0.3, 60])
    return {
        'outside': plain + np.array([300, 0, 300, 0]),
        'far_left': plain - [500, 400, 500, 400],
        'across_the_border': plain + np.array([width / 2, 0, width / 2, 0]),
        'on_the_border': np.array(
            [
                [0, 0, width, height],
                [0, 0, 1, 1],
                [width - 1, height - 1, width, height],
                [width, height, width + 5, height + 5],
                [0, 0, width, 8],
                [120, 0, 160, 96],
            ]
        ),
        'zero_area': np.concatenate([plain[:6, [0, 1, 0, 1]], plain[6:, [0, 1, 2, 1]]]),
        'inverted': plain[:, [2, 3, 0, 1]],
        'half_inverted': plain[:, [2, 1, 0, 3]],
        'equal': np.repeat(plain[:3], 4, 0),
        'ties': np.concatenate([grid - 20, grid + 20], 1),
        'half_ties': np.concatenate([grid - 16, grid + 24], 1),
        'anchors_themselves': np.concatenate([grid - 32, grid + 32], 1)[:6],
        'thin': np.concatenate([grid - thin, grid + thin], 1),
        'tiny': np.concatenate([plain[:, :2], plain[:, :2] + 0.005], 1),
        'larger_than_all': np.array([[-900, -700, 1000, 800], [-64, -64, 190, 170]]),
    }


@pytest.mark.parametrize('kind', hostile_boxes())
def test_hostile_boxes_equal_the_oracle(kind):
    check(hostile_boxes()[kind], SIZE, CANVAS)


@pytest.mark.parametrize('size', [1e4, 1e6, 1e9, 1e18, 1e30])
def test_huge_coordinates_give_owners_that_hold_the_anchor(size):
    """Distances lose all digits here; what must hold is no crash, no nonsense."""
    boxes = [
        [-size, -size, size, size],
        [size, size, size * 1.1, size * 1.1],
        [-size, 3, size, 40],
        [10, 10, 60, 50],
    ]
    got = owners(boxes, SIZE, CANVAS)
    grid = DEFAULT.all(CANVAS)
    center = (grid[:, :2] + grid[:, 2:]) / 2
    for index in np.flatnonzero(got >= 0):
        box = np.array(boxes[got[index]])
        assert (box[:2] < center[index]).all() and (center[index] < box[2:]).all()
    alone = owners(boxes[3:], SIZE, CANVAS)
    np.testing.assert_array_equal(got == 3, alone == 0)  # others claim worse overlaps


def test_500_boxes_equal_the_oracle():
    rng = np.random.default_rng(5)
    boxes = clipped(random_boxes(rng, 500, SIZE), SIZE)
    ours = owners(boxes, SIZE, CANVAS)
    theirs, unsure = expected(boxes, SIZE, CANVAS)
    np.testing.assert_array_equal(ours[~unsure], theirs[~unsure])
    assert unsure.mean() < 0.2 and len(set(ours.tolist())) > 40


@pytest.mark.parametrize(
    'size, canvas',
    [
        ((32, 32), (32, 32)),
        ((32, 64), (32, 64)),
        ((1, 1), (32, 32)),
        ((33, 20), (64, 32)),
        ((32, 32), (160, 160)),
    ],
)
def test_tiny_images_equal_the_oracle(size, canvas):
    rng = np.random.default_rng(1)
    for boxes in (
        random_boxes(rng, 10, size),
        clipped(random_boxes(rng, 10, size), size),
    ):
        check(boxes, size, canvas)


CENTERED = AnchorGenerator(center_offset=0.5)
SEVERAL = AnchorGenerator(
    (8, 16), ratios=(0.5, 1.0, 2.0), octave_base_scale=4.0, scales_per_octave=2
)


@pytest.mark.parametrize(
    'anchors, assigner',
    [
        (DEFAULT, ATSSAssigner(topk=1)),
        (DEFAULT, ATSSAssigner(topk=3)),
        (DEFAULT, ATSSAssigner(topk=20)),
        (DEFAULT, ATSSAssigner(topk=400)),  # more than any level has
        (DEFAULT, ATSSAssigner(allowed_border=0.0)),
        (DEFAULT, ATSSAssigner(allowed_border=8.0)),
        (DEFAULT, ATSSAssigner(topk=4, allowed_border=20.5)),
        (AnchorGenerator((4, 8, 16)), ATSS),
        (SEVERAL, ATSS),
        (SEVERAL, ATSSAssigner(topk=20, allowed_border=8.0)),
        (AnchorGenerator((8, 16), scales_per_octave=3), ATSSAssigner(topk=5)),
        (CENTERED, ATSSAssigner(topk=4)),
        (CENTERED, ATSSAssigner(allowed_border=0.0)),
        (AnchorGenerator((8, 16), center_offset=0.3), ATSSAssigner(topk=20)),
    ],
    ids=str,
)
def test_other_settings_equal_the_oracle(anchors, assigner):
    rng = np.random.default_rng(3)
    check(clipped(random_boxes(rng, 8, SIZE), SIZE), SIZE, CANVAS, anchors, assigner)


@pytest.mark.parametrize('seed', range(3))
def test_anchors_in_the_middle_of_their_cells_equal_the_oracle(seed):
    """`center_offset`: the nearest cells are others; boxes on grid lines are ties."""
    rng = np.random.default_rng(seed)
    boxes = clipped(random_boxes(rng, [2, 12, 24][seed], SIZE), SIZE)
    assert (check(boxes, SIZE, CANVAS, CENTERED) >= 0).any()
    check(hostile_boxes()[('ties', 'half_ties', 'across_the_border')[seed]], SIZE,
          CANVAS, CENTERED)  # fmt: skip
    plain = owners(boxes, SIZE, CANVAS)
    assert (plain != owners(boxes, SIZE, CANVAS, CENTERED)).any()


def test_allowed_border_0_leaves_only_anchors_within_the_image():
    anchors = AnchorGenerator((8, 16), octave_base_scale=2.0)
    assigner = ATSSAssigner(allowed_border=0.0)
    rng = np.random.default_rng(4)
    got = owners(random_boxes(rng, 24, SIZE), SIZE, CANVAS, anchors, assigner)
    used = anchors.all(CANVAS)[got >= 0]
    assert len(used)
    assert (used[:, :2] >= 0).all() and (used[:, 2:] < [SIZE[1], SIZE[0]]).all()


# What must not matter ----------------------------------------------------------------


def scene(seed=7):
    rng = np.random.default_rng(seed)
    return clipped(random_boxes(rng, 10, SIZE), SIZE).astype(np.float32)


def test_order_of_boxes_does_not_matter():
    boxes = scene()
    order = np.random.default_rng(0).permutation(len(boxes))
    plain, shuffled = owners(boxes, SIZE, CANVAS), owners(boxes[order], SIZE, CANVAS)
    positive = plain >= 0
    np.testing.assert_array_equal(shuffled >= 0, positive)
    np.testing.assert_array_equal(
        boxes[order][shuffled[positive]], boxes[plain[positive]]
    )


@pytest.mark.parametrize('fill', [0.0, 1e9, -1e9, np.nan, np.inf])
def test_padding_rows_do_not_matter(fill):
    boxes = scene()
    plain = owners(boxes, SIZE, CANVAS)
    np.testing.assert_array_equal(owners(boxes, SIZE, CANVAS, fill=fill), plain)


def test_rows_that_are_not_valid_own_nothing_wherever_they_stand():
    boxes = scene()
    rows = np.zeros((24, 4), np.float32)
    rows[3:23:2] = boxes
    rows[4:24:2] = boxes  # copies, not valid
    valid = np.zeros(24, bool)
    valid[3:23:2] = True
    got = np.asarray(_compiled(CANVAS, DEFAULT, ATSS)(rows, valid, np.array(SIZE)))
    plain = owners(boxes, SIZE, CANVAS)
    np.testing.assert_array_equal(got, np.where(plain >= 0, 3 + 2 * plain, -1))


@pytest.mark.parametrize('canvas', [(96, 128), (128, 320)])
def test_canvas_does_not_matter(canvas):
    """The same cells of each level own the same boxes; cells outside own none."""
    boxes = scene()
    by_canvas = []
    for size in (CANVAS, canvas):
        got, start, cells = owners(boxes, SIZE, size), 0, {}
        for level, (height, width) in enumerate(DEFAULT.grid_sizes(size)):
            grid = got[start : start + height * width].reshape(height, width)
            start += height * width
            for row, column in zip(*np.nonzero(grid >= 0), strict=True):
                cells[level, row, column] = grid[row, column]
        by_canvas.append(cells)
    assert by_canvas[0] == by_canvas[1] and by_canvas[0]


def test_vmap_equals_one_by_one():
    boxes = np.stack([scene(seed) for seed in range(3)])
    sizes = np.array([SIZE, (96, 160), (20, 30)], np.int32)
    got = jax.jit(
        jax.vmap(lambda b, s: assign(b, jnp.ones(10, bool), s, CANVAS), in_axes=(0, 0))
    )(boxes, sizes)
    for row, box, size in zip(got, boxes, sizes, strict=True):
        np.testing.assert_array_equal(row, owners(box, size, CANVAS))
