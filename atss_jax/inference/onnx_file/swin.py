"""Swin Transformer, as in `models/swin.py`; cells are (B,H*W,C), row by row."""

import numpy as np

from atss_jax.inference.onnx_file.graph import Graph, Tensor
from atss_jax.inference.onnx_file.linear import gelu, linear
from atss_jax.inference.onnx_file.norms import layer_norm
from atss_jax.inference.onnx_file.region import Region, region_at, stretch
from atss_jax.inference.onnx_file.window_attention import Windows, shift_window_msa
from atss_jax.models.swin import PATCH, SwinTransformer


def swin(
    g: Graph, module: SwinTransformer, x: Tensor, region: Region
) -> list[tuple[Tensor, Region]]:
    """Features of `out_indices`, with their regions."""
    x = patch_embed(g, module, x, region)
    region = region_at(region, PATCH)
    if module.use_abs_pos_embed:
        x = g.op('Add', x, _positions(g, module, region))
    outputs = []
    for stage, depth in enumerate(module.depths):
        is_last = stage == len(module.depths) - 1
        with g.module(f'stages_{stage}'):
            y = _blocks(g, module, stage, depth, x, region)
            x = None if is_last else patch_merging(g, module, stage, y, region)
        if stage in module.out_indices:
            y = layer_norm(g, f'norm{stage}', y)
            outputs.append((_to_map(g, y, region), region))
        region = region.half
    return outputs


def patch_embed(g: Graph, module: SwinTransformer, x: Tensor, region: Region) -> Tensor:
    """A linear layer of the pixels of each patch, then a norm if there is one."""
    with g.module('patch_embed'):
        with g.module('projection'):
            kernel = g.weight('kernel', g.parameter('kernel').transpose(3, 2, 0, 1))
            bias = g.weight('bias', g.parameter('bias'))
            x = _pad_to_multiple(g, x, region, PATCH)
            sides = {'kernel_shape': [PATCH] * 2, 'strides': [PATCH] * 2}
            x = g.op('Conv', x, kernel, bias, **sides)
        x = _to_cells(g, x)
        return layer_norm(g, 'norm', x) if module.patch_norm else x


def _blocks(g, module, stage, depth, x, region):
    shifts = 0, module.window_size // 2
    windows = [Windows(g, region, module.window_size, s) for s in shifts[:depth]]
    for index in range(depth):
        with g.module(f'blocks_{index}'):
            x = swin_block(g, module, module.num_heads[stage], x, windows[index % 2])
    return x


def swin_block(
    g: Graph, module: SwinTransformer, num_heads: int, x: Tensor, windows: Windows
) -> Tensor:
    """Attention within windows, then an FFN; both are added to their input."""
    y = layer_norm(g, 'norm1', x)
    with g.module('attn'):
        y = shift_window_msa(g, module, num_heads, y, windows)
    x = g.op('Add', x, y)
    y = layer_norm(g, 'norm2', x)
    with g.module('ffn'):
        y = linear(g, 'layers_1', gelu(g, linear(g, 'layers_0_0', y)))
    return g.op('Add', x, y)


def patch_merging(
    g: Graph, module: SwinTransformer, stage: int, x: Tensor, region: Region
) -> Tensor:
    """A linear layer of the channels of 2 x 2 cells, after a norm if there is one."""
    with g.module('downsample'):
        x = region.zero_outside(_to_map(g, x, region))
        x = _pad_to_multiple(g, x, region, 2)
        x = g.reshape(x, 0, 0, region.half.height, 2, region.half.width, 2)
        # Of each channel the four positions, in this order.
        x = g.transpose(x, 0, 2, 4, 1, 3, 5)
        x = g.reshape(x, 0, -1, 4 * module.embed_dims * 2**stage)
        x = layer_norm(g, 'norm', x) if module.patch_norm else x
        return linear(g, 'reduction', x)


def _positions(g, module, region):
    """(B,H*W,C) absolute positions, stretched to the valid region."""
    side = module.pretrain_img_size
    sides = (side, side) if isinstance(side, int) else side
    grid = [pixels // PATCH for pixels in sides]
    position = g.parameter('absolute_pos_embed').reshape(1, *grid, -1)
    position = g.weight('absolute_pos_embed', position.transpose(0, 3, 1, 2))
    height, width = (g.constant([side]) for side in grid)
    old = Region(g, g.constant(np.array([grid], np.int64)), height, width, 1)
    old.has_zeros_outside(position)
    return _to_cells(g, stretch(g, position, old, region))


def _to_cells(g, x):
    """(B,C,H,W) as (B,H*W,C)."""
    channels = g.op('Shape', x, start=1, end=2)
    return g.transpose(g.reshape(x, 0, channels, -1), 0, 2, 1)


def _to_map(g, x, region):
    """(B,H*W,C) as (B,C,H,W)."""
    x = g.transpose(x, 0, 2, 1)
    return g.reshape(x, 0, 0, region.height, region.width)


def _pad_to_multiple(g, x, region, divisor):
    """Zeros at the bottom and on the right, up to multiples of `divisor`."""
    if region.multiple % divisor == 0:
        return x
    more = (
        g.op('Sub', g.op('Mul', g.ceil_divide(side, divisor), divisor), side)
        for side in (region.height, region.width)
    )
    return g.op('Pad', x, g.op('Concat', [0, 0, 0, 0, 0, 0], *more, axis=0))
