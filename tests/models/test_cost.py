"""Multiply-adds counted by hand, of single layers and of the R50 detector."""

import jax
import jax.numpy as jnp
import pytest
from jax import lax

from atss_jax.commands.main import main
from atss_jax.config import build_model, load_config
from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.cost import cost, multiply_adds
from atss_jax.models.detector import ATSS, parameter_count
from atss_jax.models.fpn import FPN
from atss_jax.models.layers import Conv
from atss_jax.models.resnet import ResNet
from tests.conftest import ROOT
from tests.support.small import small_model

R50 = str(ROOT / 'configs' / 'atss_r50_1x.py')
SHAPES = str(ROOT / 'configs' / 'atss_shapes.py')


def shape(*sides):
    return jax.ShapeDtypeStruct(sides, jnp.float32)


def total(function, *arguments):
    return sum(multiply_adds(function, *arguments).values())


def convolve(x, kernel, stride=1, groups=1):
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        [(1, 1), (1, 1)],
        dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
        feature_group_count=groups,
    )


# By hand -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ('stride', 'groups', 'inputs', 'expected'),
    [
        (1, 1, 3, 64 * 5 * 9 * 3),  # cells, output channels, kernel, input channels
        (2, 1, 3, 16 * 5 * 9 * 3),
        (1, 4, 8, 64 * 12 * 9 * 2),  # each output sees the 2 channels of its group
        (1, 8, 8, 64 * 16 * 9 * 1),
    ],
)
def test_convolutions(stride, groups, inputs, expected):
    outputs = {1: 5, 4: 12, 8: 16}[groups]
    kernel = shape(3, 3, inputs // groups, outputs)
    counted = total(
        lambda x, k: convolve(x, k, stride, groups), shape(1, 8, 8, inputs), kernel
    )
    assert counted == expected


@pytest.mark.parametrize('stride', [1, 2])
def test_gradients_of_convolutions(stride):
    """As many as forward for each of both, whatever zeros a stride sets between."""
    kernel = shape(3, 3, 4, 5)
    forward = 64 // stride**2 * 5 * 9 * 4
    for argument in (0, 1):
        gradient = jax.grad(lambda x, k: convolve(x, k, stride).sum(), argnums=argument)
        counted = total(gradient, shape(1, 8, 8, 4), kernel)
        assert counted == 2 * forward


def test_products():
    assert total(jnp.matmul, shape(8, 8, 3), shape(3, 5)) == 64 * 3 * 5
    batched = total(
        lambda a, b: jnp.einsum('bij,bjk->bik', a, b), shape(2, 3, 4), shape(2, 4, 5)
    )
    assert batched == 2 * 3 * 4 * 5
    assert total(lambda a: a * a + a, shape(8, 8)) == 0


def test_programs_within_programs():
    @jax.custom_vjp
    def inner(a, b):
        return a @ b

    inner.defvjp(lambda a, b: (a @ b, None), lambda saved, dy: (dy, dy))
    assert total(jax.jit(inner), shape(2, 3), shape(3, 4)) == 24

    def seven(a, b):
        return lax.scan(lambda x, _: (x @ b, None), a, length=7)[0]

    assert total(seven, shape(2, 3), shape(3, 3)) == 7 * 18


def test_what_may_run_any_number_of_times_is_refused():
    def loop(a):
        return lax.while_loop(lambda x: x[0, 0] < 1, lambda x: x @ x, a)

    with pytest.raises(ValueError, match='while'):
        multiply_adds(loop, shape(2, 2))


@pytest.mark.parametrize('kernel_size, expected', [(1, 16 * 15), (3, 16 * 15 * 9)])
def test_the_1x1_that_is_a_matrix_product_counts_as_the_convolution(
    kernel_size, expected
):
    conv = Conv(5, kernel_size, stride=2)
    inputs = shape(1, 8, 8, 3), jax.ShapeDtypeStruct((1, 2), jnp.int32)
    variables = jax.eval_shape(conv.init, jax.random.key(0), *inputs)
    assert multiply_adds(conv.apply, variables, *inputs) == {'Conv': expected}


# Detectors ---------------------------------------------------------------------------


def test_r50_at_1280x800():
    """mmdetection's customary 204.5 G: 83.4 backbone, 16.3 neck, 104.8 head."""
    stem = 400 * 640 * 7 * 7 * 3 * 64
    backbone, cells, inputs = stem, 200 * 320, 64
    for stage, blocks in enumerate((3, 4, 6, 3)):
        planes = 64 * 2**stage
        before, cells = cells, cells // (1 if stage == 0 else 4)
        backbone += before * inputs * planes + cells * inputs * 4 * planes
        backbone += cells * (blocks - 1) * 4 * planes * planes
        backbone += cells * blocks * (9 + 4) * planes * planes
        inputs = 4 * planes
    p3, p4, p5, p6, p7 = (100 * 160, 50 * 80, 25 * 40, 13 * 20, 7 * 10)
    cells = p3 + p4 + p5 + p6 + p7
    laterals = (p3 * 512 + p4 * 1024 + p5 * 2048) * 256
    neck = laterals + cells * 9 * 256 * 256
    head = cells * 9 * 256 * (8 * 256 + 80 + 4 + 1)

    model = ATSS(ResNet(), FPN(), ATSSHead(80))
    counted = cost(model, [(800, 1280)])
    expected = {'backbone': backbone, 'neck': neck, 'bbox_head': head}
    assert counted.multiply_adds == {(800, 1280): expected}
    rounded = [round(count / 1e9, 1) for count in expected.values()]
    assert rounded == [83.4, 16.3, 104.8]
    assert round(sum(expected.values()) / 1e9, 1) == 204.5
    # The first is torchvision's R50, 25,557,032, less its classifier, 2,049,000.
    assert counted.parameters == {
        'backbone': 23_508_032,
        'neck': 918_272 + 5 * (9 * 256 * 256 + 256),
        'bbox_head': 32_295_322 - 23_508_032 - 3_868_672,
    }


def test_two_necks_are_one_part():
    path = str(ROOT / 'configs' / 'atss_r50_dyhead_1x.py')
    model = build_model(load_config(path, {'model.neck.1.num_blocks': 1}))
    counted = cost(model, [(128, 128)])
    assert sum(counted.parameters.values()) == parameter_count(model)
    assert list(counted.parameters) == ['backbone', 'neck', 'bbox_head']
    assert list(counted.multiply_adds[128, 128]) == list(counted.parameters)
    # No towers: class, box and centerness, 3x3.
    cells = 16**2 + 8**2 + 4**2 + 2**2 + 1
    head = counted.multiply_adds[128, 128]['bbox_head']
    assert head == cells * 9 * 256 * 85


def test_cost_grows_with_the_canvas():
    counted = cost(small_model(), [(64, 64), (64, 128), (128, 64)]).multiply_adds
    one, wide, tall = counted.values()
    assert wide == tall == {part: 2 * count for part, count in one.items()}


@pytest.mark.parametrize('canvas', [(64, 80), (0, 64)])
def test_a_canvas_that_no_image_has(canvas):
    with pytest.raises(ValueError, match='expected multiples of 32'):
        cost(small_model(), [canvas])


# The command -------------------------------------------------------------------------


def test_flops(capsys):
    """The customary canvas and those of the config; CONFIG in either place."""
    fields = (
        '--config.data.canvases=((64, 96),)',
        '--config.data.max_boxes=2',
    )
    assert main(['flops', *fields, '--config', SHAPES]) == 0
    first = capsys.readouterr().out
    assert main(['flops', SHAPES, *fields]) == 0
    assert capsys.readouterr().out == first
    lines = [line.split() for line in first.splitlines()]
    assert [line[0] for line in lines[1:5]] == ['backbone', 'neck', 'bbox_head', 'all']
    counts = [int(line[1].replace(',', '')) for line in lines[1:5]]
    assert sum(counts[:3]) == counts[3]
    assert lines[7] == ['height', 'x', 'width', *(line[0] for line in lines[1:5])]
    assert [line[0] for line in lines[8:]] == ['800x1280', '64x96']


def test_flops_of_a_canvas(capsys):
    words = '--canvas', '800x1280', R50, '--config.model.bbox_head.num_classes=1'
    assert main(['flops', *words]) == 0
    (line,) = capsys.readouterr().out.splitlines()[8:]
    assert line.split() == ['800x1280', '83.41', '16.25', '100.94', '200.60']


def test_flops_where_images_are_padded_further(capsys):
    """800 is no multiple of 128, 896 is."""
    splits = ('train', 'val', 'test')
    fields = [f'--config.data.{x}.pipeline.pad.size_divisor=128' for x in splits]
    canvases = '--config.data.canvases=((128, 256),)'
    assert main(['flops', SHAPES, canvases, *fields]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()[8:]]
    assert [line[0] for line in lines] == ['896x1280', '128x256']


@pytest.mark.parametrize(
    ('words', 'part'),
    [
        ((), 'expected one CONFIG'),
        ((R50, R50), 'expected one CONFIG'),
        ((R50, '--config.optimizer.lr', '3'), 'with = and no space'),
        (('none.py',), 'no config file at none.py'),
        ((R50, '--canvas=800x1000'), 'canvas 800x1000: expected multiples of 32'),
    ],
)
def test_what_flops_refuses(capsys, words, part):
    assert main(['flops', *words]) == 1
    assert part in capsys.readouterr().err


@pytest.mark.parametrize('canvas', ['800', '800x', 'ax8', '8x8x8', '-8x8'])
def test_a_canvas_that_is_none(capsys, canvas):
    with pytest.raises(SystemExit):
        main(['flops', R50, f'--canvas={canvas}'])
    assert 'expected HEIGHTxWIDTH such as 800x1280' in capsys.readouterr().err
