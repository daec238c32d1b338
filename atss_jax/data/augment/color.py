"""Transforms of color: mmdetection's PhotoMetricDistortion and YOLOXHSVRandomAug.

Images are RGB here and BGR in mmdetection; the arithmetic is the same channel by
channel.
"""

import dataclasses
from typing import NamedTuple

import cv2
import numpy as np

from atss_jax.data.augment.objects import Objects, Size

_STRIP = 32  # rows


class Distortion(NamedTuple):
    """What is sampled for an image; the values as mmdetection calls them.

    Attributes:
        contrast_last: contrast after the change of colors, or before.
        brightness: what is added; None: nothing.
        contrast: factor; None: 1.
        saturation: factor; None: 1.
        hue: degrees that are added; None: none.
        channels: a permutation of the channels of a BGR image; None: as they are.
    """

    contrast_last: bool
    brightness: float | None
    contrast: float | None
    saturation: float | None
    hue: float | None
    channels: tuple[int, int, int] | None


@dataclasses.dataclass(frozen=True)
class PhotoMetricDistortion:
    """Changes brightness, contrast, saturation and hue, and swaps channels.

    Each with a probability of 0.5.

    Differs from mmdet: the result is rounded and clipped to 0..255, since batches are
    uint8, where mmdetection goes on with float32 values of any size.

    Attributes:
        brightness_delta: at most so much is added to all channels, or taken away.
        contrast_range: smallest and largest factor of all channels.
        saturation_range: smallest and largest factor of the saturation.
        hue_delta: the hue turns by so many degrees at most, either way.

    Source: mmdet.datasets.transforms.PhotoMetricDistortion.
    """

    brightness_delta: float = 32
    contrast_range: tuple[float, float] = (0.5, 1.5)
    saturation_range: tuple[float, float] = (0.5, 1.5)
    hue_delta: float = 18

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get: its own."""
        return (size,)

    def sample(self, size, random: np.random.Generator, pool) -> tuple[Distortion, ()]:
        """What is done to an image, at random, and no further images."""
        mode, *flags = random.integers(2, size=6).tolist()
        values = (
            random.uniform(-self.brightness_delta, self.brightness_delta),
            random.uniform(*self.contrast_range),
            random.uniform(*self.saturation_range),
            random.uniform(-self.hue_delta, self.hue_delta),
            tuple(random.permutation(3).tolist()),
        )
        chosen = (
            value if flag else None for value, flag in zip(values, flags, strict=True)
        )
        return Distortion(mode == 0, *chosen), ()

    def objects(self, objects: Objects, size, sampled, others) -> Objects:
        """The objects as they are."""
        return objects

    def image(self, image: np.ndarray, sampled: Distortion, others) -> np.ndarray:
        """(H,W,3) uint8: the image distorted as sampled."""
        result = np.empty_like(image)
        # Strip by strip, whose float32 values stay in the cache: half the time.
        for top in range(0, len(image), _STRIP):
            strip = distort(image[top : top + _STRIP], sampled)
            # Rounds and clips, in a third of the time that NumPy takes for both.
            cv2.add(strip, 0, dst=result[top : top + _STRIP], dtype=cv2.CV_8U)
        return result


def distort(image: np.ndarray, sampled: Distortion) -> np.ndarray:
    """(H,W,3) float32 RGB, the values that mmdetection has, also outside 0..255."""
    image = image.astype(np.float32)
    if sampled.brightness is not None:
        image += np.float32(sampled.brightness)
    if sampled.contrast is not None and not sampled.contrast_last:
        image *= np.float32(sampled.contrast)
    # Always, as in mmdetection: values below 0 do not survive the way there and back.
    hue, saturation, value = cv2.split(cv2.cvtColor(image, cv2.COLOR_RGB2HSV))
    if sampled.saturation is not None:
        saturation *= np.float32(sampled.saturation)
        if sampled.saturation > 1:
            np.clip(saturation, 0, 1, out=saturation)
    if sampled.hue is not None:
        hue += np.float32(sampled.hue)
        np.subtract(hue, np.float32(360), out=hue, where=hue > 360)
        np.add(hue, np.float32(360), out=hue, where=hue < 0)
    image = cv2.cvtColor(cv2.merge((hue, saturation, value)), cv2.COLOR_HSV2RGB)
    if sampled.contrast is not None and sampled.contrast_last:
        image *= np.float32(sampled.contrast)
    if sampled.channels is not None:
        # Channel c of BGR becomes channel channels[c]; RGB counts from the other end.
        image = image[..., [2 - channel for channel in sampled.channels[::-1]]]
        image = np.ascontiguousarray(image)
    return image


@dataclasses.dataclass(frozen=True)
class YOLOXHSVRandomAug:
    """Adds to hue, saturation and value, each with a probability of 0.5.

    Attributes:
        hue_delta: largest change of the hue, of 180 on the full circle.
        saturation_delta: largest change of the saturation, of 255.
        value_delta: largest change of the value, of 255.

    Source: mmdet.datasets.transforms.YOLOXHSVRandomAug.
    """

    hue_delta: float = 5
    saturation_delta: float = 30
    value_delta: float = 30

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get: its own."""
        return (size,)

    def sample(self, size, random: np.random.Generator, pool):
        """Three integers to add, at random, and no further images."""
        limits = self.hue_delta, self.saturation_delta, self.value_delta
        gains = random.uniform(-1, 1, 3) * limits * random.integers(0, 2, 3)
        return tuple(gains.astype(np.int16).tolist()), ()

    def objects(self, objects: Objects, size, sampled, others) -> Objects:
        """The objects as they are."""
        return objects

    def image(self, image: np.ndarray, sampled, others) -> np.ndarray:
        """(H,W,3) uint8: the image with the sampled gains added."""
        hsv = cv2.cvtColor(image, cv2.COLOR_RGB2HSV)
        levels = np.arange(256)
        hue, saturation, value = sampled
        tables = np.stack(
            [
                (levels + hue) % 180,
                np.clip(levels + saturation, 0, 255),
                np.clip(levels + value, 0, 255),
            ],
            axis=1,
        )
        changed = cv2.LUT(hsv, tables.astype(np.uint8)[None])
        return cv2.cvtColor(changed, cv2.COLOR_HSV2RGB)
