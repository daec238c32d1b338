"""Graphs of whole detectors at full width give what mmdetection gives."""

import numpy as np
import pytest

from atss_jax.inference.onnx_file.detector import HEADS, atss, canvas_of
from atss_jax.weights import mmdet
from tests.conftest import GOLDEN
from tests.models import test_family as family
from tests.support import swin
from tests.support.onnx_models import run_graph
from tests.support.recipes import golden_state_dict
from tests.support.small import golden_model, golden_variables

pytestmark = pytest.mark.onnx
pytest.importorskip('onnxruntime')


def r50():
    return golden_model(), golden_variables(), dict(np.load(GOLDEN / 'forward_a.npz'))


def relative(name):
    model = family.model_of(name)
    weights = golden_state_dict(family.shapes_of(name))
    return model, mmdet.to_variables(weights, model), family.golden(name)


def transformer(name):
    model = swin.golden_swin(name)
    variables = mmdet.to_variables(swin.golden_swin_state(name), model)
    return model, variables, swin.golden_images(name)['a']


CASES = {
    'r50': r50,
    **{name: lambda name=name: relative(name) for name in family.MODELS},
    **{name: lambda name=name: transformer(name) for name in ('w7', 'w12', 'abs')},
}


@pytest.mark.parametrize('name', CASES)
def test_head_outputs_equal_mmdet(name):
    """Alone on the smallest canvas, and next to noise on a larger one."""
    model, variables, golden = CASES[name]()
    divisor = model.size_divisor
    height, width, _ = golden['image'].shape
    smallest = [-(-side // divisor) * divisor for side in (height, width)]
    larger = [side + divisor for side in smallest]
    alone = np.zeros((1, *smallest, 3), np.float32)
    alone[0, :height, :width] = golden['image']
    both = np.zeros((2, *larger, 3), np.float32)
    both[0] = np.random.default_rng(0).normal(size=both[0].shape)
    both[1, :height, :width] = golden['image']
    run = heads_of(model, variables)
    for images, sizes in (
        (alone, [[height, width]]),
        (both, [larger, [height, width]]),
    ):
        outputs = run({'image': images, 'image_size': np.array(sizes, np.int64)})
        compare(model, outputs, golden, images.shape[1:3])


def heads_of(model, variables):
    """The function from normalized images and their sizes to head outputs."""

    def write(g, inputs):
        image, size = inputs['image'], inputs['image_size']
        canvas = canvas_of(g, image, size, model.size_divisor)
        levels = atss(g, model, g.transpose(image, 0, 3, 1, 2), canvas)
        assert g.unread_parameters() == []
        outputs = tuple(zip(*levels, strict=True))[: len(HEADS)]
        return [g.op('Concat', *tensors, axis=1) for tensors in outputs]

    return lambda batch: run_graph(write, batch, variables)


def compare(model, outputs, golden, canvas):
    start = 0
    for level, stride in enumerate(model.strides):
        grid = [-(-side // stride) for side in canvas]
        end = start + grid[0] * grid[1]
        for key, output in zip(('cls', 'reg', 'ctr'), outputs, strict=True):
            expected = golden[f'{key}{level}']
            height, width, _ = expected.shape
            values = output[-1, start:end].reshape(*grid, -1)[:height, :width]
            np.testing.assert_allclose(values, expected, atol=2e-5)
        start = end
    assert len(HEADS) == len(outputs) and outputs[0].shape[1] == start
