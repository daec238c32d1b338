"""The whole detector: backbone, neck, head."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from atss_jax.models.region import level_sizes
from atss_jax.models.swin import SwinTransformer
from atss_jax.structures import HeadOutputs, round_up


class ATSS(nn.Module):
    """Normalized images in, head outputs out.

    The outputs of an image depend on neither its canvas nor its batch mates.

    Attributes:
        backbone: ResNet or SwinTransformer.
        neck: FPN, or (FPN, DyHead), of which DyHead takes the FPN's outputs.
        bbox_head: ATSSHead.
        strides: pixels per cell of each pyramid level.
        size_divisor: an image's valid region is its size rounded up to a multiple of
            this, the padding that mmdet would give the image alone.
        dtype: type in which the network computes; parameters, norm statistics and
            outputs are float32 in any case.
    """

    backbone: nn.Module
    neck: nn.Module | tuple[nn.Module, ...]
    bbox_head: nn.Module
    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    size_divisor: int = 32
    dtype: str = 'float32'

    def __call__(
        self,
        images: Float[Array, 'B H W 3'],
        image_sizes: Int[Array, 'B 2'],
        train: bool = False,
        keys: Key[Array, ' B'] | None = None,
    ) -> HeadOutputs:
        """Head outputs of all levels.

        Args:
            images: normalized, zero outside each image; H and W multiples of 32.
            image_sizes: height, width of each image on the canvas.
            train: batch statistics where `norm_eval` is False.
            keys: one for each image, if training drops anything at random.
        """
        size = round_up(image_sizes, self.size_divisor)
        images = images.astype(jnp.dtype(self.dtype))
        more = {} if keys is None else {'keys': keys}
        features = self.backbone(images, size, train, **more)
        strides = tuple(2 ** (index + 2) for index in self.backbone.out_indices)
        sizes = level_sizes(size, strides)
        for neck in self.neck if isinstance(self.neck, tuple) else (self.neck,):
            features = neck(features, sizes)
            sizes = level_sizes(size, self.strides)
        return self.bbox_head(features, sizes, train)


def needs_keys(model: ATSS) -> bool:
    """Whether training drops anything at random."""
    return isinstance(model.backbone, SwinTransformer) and model.backbone.is_random


def parameter_count(model: ATSS) -> int:
    """Number of parameters, frozen ones included, running statistics not."""
    images = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    sizes = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images, sizes)
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(shapes['params']))
