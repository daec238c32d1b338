"""Feature pyramid network, as in `models/fpn.py`."""

import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.layers import Conv, conv_module
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.fpn import FPN

Features = list[tuple[Tensor, Region]]
"""The maps of several levels, with their regions."""


def fpn(g: Graph, module: FPN, inputs: Features) -> Features:
    """Features of `num_outs` levels."""
    inputs = inputs[module.start_level :]
    regions = [region for _, region in inputs]
    laterals = [
        conv_module(g, Conv(f'lateral_convs_{i}'), x, region)
        for i, (x, region) in enumerate(inputs)
    ]
    for i in range(len(laterals) - 1, 0, -1):
        up = _repeat(g, laterals[i])
        laterals[i - 1] = g.op('Add', laterals[i - 1], up)
    outputs = [
        (conv_module(g, Conv(f'fpn_convs_{i}'), x, region), region)
        for i, (x, region) in enumerate(zip(laterals, regions, strict=True))
    ]
    _add_levels(g, module, outputs, inputs[-1][0], laterals[-1])
    return outputs[: module.num_outs]


def _repeat(g, x):
    """Every cell becomes 2 x 2 cells."""
    scales = g.constant(np.array([1, 1, 2, 2], np.float32))
    # Empty: no region of interest.
    return g.op(
        'Resize',
        x,
        '',
        scales,
        mode='nearest',
        coordinate_transformation_mode='asymmetric',
        nearest_mode='floor',
    )


def _add_levels(g, module, outputs, top_input, top_lateral):
    """Appends levels to `outputs` until there are `num_outs`."""
    x, region = outputs[-1]
    if not module.add_extra_convs:
        while len(outputs) < module.num_outs:
            x = g.op('MaxPool', x, kernel_shape=[1, 1], strides=[2, 2])
            region = region.half
            outputs.append((x, region))
        return
    sources = {
        True: top_input,
        'on_input': top_input,
        'on_lateral': top_lateral,
        'on_output': x,
    }
    x = sources[module.add_extra_convs]
    while len(outputs) < module.num_outs:
        x = conv_module(g, Conv(f'fpn_convs_{len(outputs)}', 2), x, region)
        region = region.half
        outputs.append((x, region))
