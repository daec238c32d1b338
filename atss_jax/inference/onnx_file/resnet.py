"""ResNet and ResNeXt, as in `models/resnet.py`."""

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.layers import Conv, convolve_and_norm
from atss_jax.inference.onnx_file.region import Region
from atss_jax.models.norms import norm_prefix
from atss_jax.models.resnet import BLOCKS, ResNet


def resnet(
    g: Graph, module: ResNet, x: Tensor, region: Region
) -> list[tuple[Tensor, Region]]:
    """Features of `out_indices`, with their regions."""
    norm = f'{norm_prefix(module.norm_cfg)}1'
    x = convolve_and_norm(g, Conv('conv1', 2), norm, module.norm_cfg, x, region)
    region = region.half
    x = max_pool(g, g.op('Relu', x), region)
    region = region.half
    outputs = []
    for stage in range(module.num_stages):
        for index in range(BLOCKS[module.depth][stage]):
            stride = 2 if stage > 0 and index == 0 else 1
            with g.module(f'layer{stage + 1}_{index}'):
                x = _block(g, module, stage, stride, x, region)
            region = region if stride == 1 else region.half
        if stage in module.out_indices:
            outputs.append((x, region))
    return outputs


def max_pool(g: Graph, x: Tensor, region: Region) -> Tensor:
    """3x3 maximum at stride 2, after a ReLU: zeros outside cannot be the maximum."""
    x = region.zero_outside(x)
    return g.op('MaxPool', x, kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)


def _block(g, module, stage, stride, x, region):
    if module.depth in (18, 34):
        y = basic_block(g, module, stride, x, region)
    else:
        y = bottleneck(g, module, stage, stride, x, region)
    if g.has_module('downsample_0'):
        conv = Conv('downsample_0', stride)
        x = convolve_and_norm(g, conv, 'downsample_1', module.norm_cfg, x, region)
    return g.op('Relu', g.op('Add', y, x))


def basic_block(
    g: Graph, module: ResNet, stride: int, x: Tensor, region: Region
) -> Tensor:
    """Two 3x3 convolutions, without the shortcut."""
    y = g.op('Relu', _conv_and_norm(g, module, 1, Conv('conv1', stride), x, region))
    region = region if stride == 1 else region.half
    return _conv_and_norm(g, module, 2, Conv('conv2'), y, region)


def bottleneck(
    g: Graph, module: ResNet, stage: int, stride: int, x: Tensor, region: Region
) -> Tensor:
    """1x1, 3x3, 1x1, without the shortcut; the 3x3 may be deformable."""
    is_caffe = module.style == 'caffe'
    strides = (stride, 1) if is_caffe else (1, stride)
    region_out = region if stride == 1 else region.half
    region_mid = region_out if is_caffe else region
    is_deformable = module.dcn is not None and module.stage_with_dcn[stage]
    deform_groups = module.dcn['deform_groups'] if is_deformable else 0
    middle = Conv('conv2', strides[1], module.groups, deform_groups)
    y = _conv_and_norm(g, module, 1, Conv('conv1', strides[0]), x, region)
    y = _conv_and_norm(g, module, 2, middle, g.op('Relu', y), region_mid)
    return _conv_and_norm(g, module, 3, Conv('conv3'), g.op('Relu', y), region_out)


def _conv_and_norm(g, module, index, conv, x, region):
    norm = f'{norm_prefix(module.norm_cfg)}{index}'
    return convolve_and_norm(g, conv, norm, module.norm_cfg, x, region)
