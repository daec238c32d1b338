"""Normalization of uint8 images on a canvas, on the device."""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt8

from atss_jax.models.region import zero_outside


@dataclasses.dataclass(frozen=True)
class Normalizer:
    """mmdet's `img_norm_cfg`.

    Attributes:
        mean: subtracted from each channel, in the order that the model reads them.
        std: each channel is divided by it.
        to_rgb: the model reads RGB; if False, BGR (caffe weights).
    """

    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    to_rgb: bool = True

    def __call__(
        self, images: UInt8[Array, 'B H W 3'], image_sizes: Int[Array, 'B 2']
    ) -> Float[Array, 'B H W 3']:
        """Normalizes; 0 outside each image, since mmdet pads after normalizing."""
        pixels = images.astype(jnp.float32)
        if not self.to_rgb:
            pixels = pixels[..., ::-1]
        normalized = (pixels - jnp.array(self.mean)) / jnp.array(self.std)
        return zero_outside(normalized, image_sizes)
