"""Swin Transformer as mmdetection builds it."""

import math
import re
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from atss_jax.models.initializers import Normal, Uniform
from atss_jax.models.linear import Linear, add_bias, drop_path, dropout, fold, gelu
from atss_jax.models.norms import LayerNorm
from atss_jax.models.region import halve, stretch, zero_outside
from atss_jax.models.window_attention import ShiftWindowMSA
from atss_jax.models.windows import pad_to_multiple
from atss_jax.structures import ceil_divide

PATCH = 4  # pixels, the side of a cell of the first stage


class PatchEmbed(nn.Module):
    """A linear layer of the pixels of each patch, then a norm if `norm` is set."""

    channels: int
    norm: bool

    @nn.compact
    def __call__(self, x: Float[Array, 'B H W c']) -> Float[Array, 'B h w C']:
        """Cells of 4 x 4 pixels."""
        shape = PATCH, PATCH, x.shape[-1], self.channels
        x = pad_to_multiple(x, PATCH)
        batch, height, width, _ = x.shape
        x = x.reshape(batch, height // PATCH, PATCH, width // PATCH, PATCH, -1)
        x = x.swapaxes(2, 3)
        x = x.reshape(*x.shape[:3], math.prod(shape[:-1]))
        kernel, bias = _Projection(shape, name='projection')()
        x = x @ kernel.reshape(-1, self.channels).astype(x.dtype)
        x = add_bias(x, bias)
        return LayerNorm(name='norm')(x) if self.norm else x


class _Projection(nn.Module):
    """The parameters of a convolution, which start as PyTorch's do."""

    shape: tuple[int, ...]

    @nn.compact
    def __call__(self):
        init = Uniform(math.prod(self.shape[:-1]) ** -0.5)
        kernel = self.param('kernel', init, self.shape)
        bias = self.param('bias', init, self.shape[-1:])
        return jnp.asarray(kernel), jnp.asarray(bias)


class PatchMerging(nn.Module):
    """A linear layer of the channels of 2 x 2 cells, after a norm if `norm` is set.

    As in mmdet the positions are the fastest-varying of the joined channels; in the
    official code they are the slowest.
    """

    channels: int
    norm: bool

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], size: Int[Array, 'B 2']
    ) -> Float[Array, 'B h w D']:
        """`size`: the valid region of the input."""
        x = pad_to_multiple(zero_outside(x, size), 2)
        batch, height, width, channels = x.shape
        x = x.reshape(batch, height // 2, 2, width // 2, 2, channels)
        x = x.transpose(0, 1, 3, 5, 2, 4)
        x = x.reshape(batch, height // 2, width // 2, 4 * channels)
        if self.norm:
            x = LayerNorm(name='norm')(x)
        return Linear(self.channels, use_bias=False, name='reduction')(x)


class FFN(nn.Module):
    """Two linear layers with a GELU between them.

    Attributes:
        hidden_channels: channels between the layers.
        drop_rate: dropout after each layer.
    """

    hidden_channels: int
    drop_rate: float = 0.0

    @nn.compact
    def __call__(
        self, x: Float[Array, 'B H W C'], keys: Key[Array, ' B'] | None = None
    ) -> Float[Array, 'B H W C']:
        """`keys`: one for each image, for dropout."""
        y = gelu(Linear(self.hidden_channels, name='layers_0_0')(x))
        y = dropout(y, self.drop_rate, fold(keys, 0))
        y = Linear(x.shape[-1], name='layers_1')(y)
        return dropout(y, self.drop_rate, fold(keys, 1))


class SwinBlock(nn.Module):
    """Attention within windows, then an FFN; both are added to their input.

    Attributes:
        attention: fields of `ShiftWindowMSA`.
        hidden_channels: channels within the FFN.
        drop_rate: dropout after linear layers.
        drop_path_rate: rate at which an image skips the attention, and the FFN.
    """

    attention: Mapping[str, Any]
    hidden_channels: int
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        keys: Key[Array, ' B'] | None = None,
    ) -> Float[Array, 'B H W C']:
        """`size`: the valid region; `keys`: one for each image, for dropout."""
        attention = ShiftWindowMSA(**self.attention, name='attn')
        y = attention(LayerNorm(name='norm1')(x), size, fold(keys, 0))
        x = x + drop_path(y, self.drop_path_rate, fold(keys, 1))
        ffn = FFN(self.hidden_channels, self.drop_rate, name='ffn')
        y = ffn(LayerNorm(name='norm2')(x), fold(keys, 2))
        return x + drop_path(y, self.drop_path_rate, fold(keys, 3))


class SwinStage(nn.Module):
    """Blocks, then a merging of patches unless it is the last stage.

    Attributes:
        blocks: fields of each `SwinBlock`.
        merged_channels: channels after the merging; None: no merging.
        patch_norm: norm of the merging.
        with_cp: blocks are computed anew for the gradient.
    """

    blocks: tuple[Mapping[str, Any], ...]
    merged_channels: int | None
    patch_norm: bool
    with_cp: bool

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B H W C'],
        size: Int[Array, 'B 2'],
        keys: tuple[Key[Array, ' B'] | None, ...],
    ) -> tuple[Float[Array, 'B H W C'], Float[Array, 'B h w D'] | None]:
        """The output of the blocks, and the input of the next stage.

        Args:
            x: features.
            size: their valid region.
            keys: for each block one key for each image, or None.
        """
        # Parameters that are created within `remat` would be tracers, not NumPy arrays.
        computes_again = self.with_cp and not self.is_initializing()
        block_type = nn.remat(SwinBlock) if computes_again else SwinBlock
        for index, fields in enumerate(self.blocks):
            x = block_type(**fields, name=f'blocks_{index}')(x, size, keys[index])
        if self.merged_channels is None:
            return x, None
        merging = PatchMerging(self.merged_channels, self.patch_norm, name='downsample')
        return x, merging(x, size)


class SwinTransformer(nn.Module):
    """Swin Transformer, with mmdet's field names, parameter names and numbers.

    The softmax of a block holds window_size**2 * num_heads float32 numbers for each
    cell of the stage: for Swin-L (window 12, 6 heads) on a canvas of 1200 x 2000
    that is 0.5 GB for one image in the first stage. In training each block keeps its
    own, unless `with_cp` is set; programs for TPUs keep none and compute it again.

    Source: arXiv 2103.14030; mmdet `models/backbones/swin.py`.

    Attributes:
        pretrain_img_size: side of the images, or (height, width), that positions are
            embedded for; not read without `use_abs_pos_embed`.
        embed_dims: channels of the first stage; each stage has twice those before it.
        depths: blocks of each stage; every second one has shifted windows.
        num_heads: attention heads of each stage.
        window_size: side of the windows, in cells.
        mlp_ratio: channels within the FFN, as a multiple of its inputs.
        qkv_bias: bias of queries, keys and values.
        qk_scale: factor of the queries; None: 1 over the root of a head's channels.
        drop_rate: dropout after linear layers, in training.
        attn_drop_rate: dropout of attention weights, in training.
        drop_path_rate: rate at which an image skips the last block's attention or FFN
            in training; it grows linearly from 0 at the first block.
        patch_norm: norms after the embedding of patches and before each merging.
        out_indices: stages whose features are returned, each after a norm.
        use_abs_pos_embed: adds an embedding of the position to each patch.
            Differs from mmdet, which refuses images whose valid region is not of
            `pretrain_img_size`: their embeddings are interpolated.
        frozen_stages: -1: none; 0: the embedding; n: it and the first n stages, which
            also drop nothing.
        with_cp: blocks are computed anew for the gradient, which saves memory.
        convert_weights: pretrained weights are a file of the official Swin code rather
            than of mmdet; nothing else changes.
    """

    pretrain_img_size: int | tuple[int, int] = 224
    embed_dims: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int = 7
    mlp_ratio: int = 4
    qkv_bias: bool = True
    qk_scale: float | None = None
    drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    patch_norm: bool = True
    out_indices: tuple[int, ...] = (0, 1, 2, 3)
    use_abs_pos_embed: bool = False
    frozen_stages: int = -1
    with_cp: bool = False
    convert_weights: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, 'B H W 3'],
        size: Int[Array, 'B 2'],
        train: bool = False,
        keys: Key[Array, ' B'] | None = None,
    ) -> tuple[Float[Array, 'B _h _w _c'], ...]:
        """Features of `out_indices`, at strides 4, 8, 16, 32.

        Args:
            x: images, zero outside.
            size: valid region of each.
            train: whether to drop anything.
            keys: one for each image, which decides what is dropped.
        """
        keys = keys if train else None
        if train and self.is_random and keys is None:
            raise ValueError('training with dropout or drop path needs keys')
        x = PatchEmbed(self.embed_dims, self.patch_norm, name='patch_embed')(x)
        size = ceil_divide(size, PATCH)
        if self.use_abs_pos_embed:
            x = self._add_positions(x, size)
        x = dropout(
            x, self.drop_rate, self._keys(keys, 0, is_frozen=self.frozen_stages >= 0)
        )
        outputs = []
        for index in range(len(self.depths)):
            y, x = self._stage(index, x, size, keys)
            if index in self.out_indices:
                outputs.append(LayerNorm(name=f'norm{index}')(y))
            size = halve(size)
        return tuple(outputs)

    def _stage(self, stage, x, size, keys):
        channels = self.embed_dims * 2**stage
        first = sum(self.depths[:stage])
        attention = {
            'channels': channels,
            'num_heads': self.num_heads[stage],
            'window_size': self.window_size,
            'qkv_bias': self.qkv_bias,
            'qk_scale': self.qk_scale,
            'attn_drop_rate': self.attn_drop_rate,
            'drop_rate': self.drop_rate,
        }
        rates = np.linspace(0, self.drop_path_rate, sum(self.depths))
        blocks = tuple(
            {
                'attention': {
                    **attention,
                    'shift': index % 2 * (self.window_size // 2),
                },
                'hidden_channels': self.mlp_ratio * channels,
                'drop_rate': self.drop_rate,
                'drop_path_rate': float(rates[first + index]),
            }
            for index in range(self.depths[stage])
        )
        is_last = stage == len(self.depths) - 1
        module = SwinStage(
            blocks,
            None if is_last else 2 * channels,
            self.patch_norm,
            self.with_cp,
            name=f'stages_{stage}',
        )
        is_frozen = stage < self.frozen_stages
        numbers = range(first + 1, first + 1 + len(blocks))
        return module(x, size, tuple(self._keys(keys, n, is_frozen) for n in numbers))

    def _keys(self, keys, number, is_frozen):
        return None if is_frozen else fold(keys, number)

    def _add_positions(self, x, size):
        side = self.pretrain_img_size
        sides = (side, side) if isinstance(side, int) else side
        grid = tuple(pixels // PATCH for pixels in sides)
        shape = 1, math.prod(grid), self.embed_dims
        position = jnp.asarray(self.param('absolute_pos_embed', Normal(0.02), shape))
        position = jnp.broadcast_to(
            position.reshape(1, *grid, -1), (x.shape[0], *grid, self.embed_dims)
        )
        old = jnp.broadcast_to(jnp.array(grid), size.shape)
        with jax.default_matmul_precision('highest'):
            position = stretch(position, old, size, x.shape[1:3])
        return (x + position).astype(x.dtype)

    @nn.nowrap
    def is_frozen(self, module: str) -> bool:
        """Whether the parameters of a module directly below this one are frozen."""
        stage = re.fullmatch(r'(?:stages_|norm)(\d+)', module)
        if stage is not None:
            return int(stage[1]) < self.frozen_stages
        return self.frozen_stages >= 0

    @property
    def is_random(self) -> bool:
        """Whether training drops anything."""
        return any((self.drop_rate, self.attn_drop_rate, self.drop_path_rate))
