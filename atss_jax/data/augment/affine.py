"""Transforms that move an image as a whole: flips, and mmdetection's RandomAffine."""

import dataclasses
import math
from typing import NamedTuple

import cv2
import numpy as np

from atss_jax.data.augment.objects import Objects, Size, inside
from atss_jax.data.transforms import (
    Flip,
    clip_boxes,
    flip_by_chance,
    flip_chances,
    flip_image,
    mirror_boxes,
)


@dataclasses.dataclass(frozen=True)
class RandomFlip:
    """Mirrors an image, at its place in the list of transforms.

    `flip_ratio` and `flip_direction` of the pipeline do the same after the resize.

    Attributes:
        prob: probability; with several directions, one for each, or of all together.
        direction: 'horizontal', 'vertical' or 'diagonal' (both), or several of them, of
            which at most one is done.

    Source: mmdet.datasets.transforms.RandomFlip.
    """

    prob: float | tuple[float, ...]
    direction: str | tuple[str, ...] = 'horizontal'

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """Sizes that an image of `size` may get: its own."""
        return (size,)

    def sample(self, size, random: np.random.Generator, pool):
        """A direction at random, None if there is none; and no further images."""
        chances = flip_chances(self.prob, self.direction)
        return flip_by_chance(chances, random.random()) or None, ()

    def objects(self, objects: Objects, size: Size, sampled: Flip, others) -> Objects:
        """The objects mirrored."""
        return objects.with_boxes(mirror_boxes(objects.boxes, size, sampled))

    def image(self, image: np.ndarray, sampled: Flip, others) -> np.ndarray:
        """(H,W,3) uint8: the image mirrored."""
        return flip_image(image, flip=sampled)


class Motion(NamedTuple):
    """What is sampled for an image.

    Attributes:
        rotation: degrees.
        scale: factor.
        shear_x: degrees.
        shear_y: degrees.
        right: move, as a fraction of the width of the result.
        down: move, as a fraction of the height of the result.
    """

    rotation: float
    scale: float
    shear_x: float
    shear_y: float
    right: float
    down: float


@dataclasses.dataclass(frozen=True)
class RandomAffine:
    """Rotates, scales, shears and moves an image around its top left corner.

    Each box becomes the smallest one around its four corners, is clipped to the result,
    and dropped if nothing of it is left there.

    Attributes:
        max_rotate_degree: largest rotation, either way, in degrees.
        max_translate_ratio: largest move, either way, as a fraction of the sides.
        scaling_ratio_range: smallest and largest factor.
        max_shear_degree: largest shear along each axis, either way, in degrees.
        border: pixels (x, y) added on each side of the result; negative: cut off.
        border_val: color, in the order blue, green, red, where the image does not
            reach.

    Source: mmdet.datasets.transforms.RandomAffine.
    """

    max_rotate_degree: float = 10.0
    max_translate_ratio: float = 0.1
    scaling_ratio_range: tuple[float, float] = (0.5, 1.5)
    max_shear_degree: float = 2.0
    border: tuple[int, int] = (0, 0)
    border_val: tuple[int, int, int] = (114, 114, 114)

    def sizes(self, size: Size) -> tuple[Size, ...]:
        """The size that an image of `size` gets.

        Raises:
            ValueError: `border` cuts all of it off.
        """
        new = size[0] + 2 * self.border[1], size[1] + 2 * self.border[0]
        if min(new) < 1:
            raise ValueError(
                f'RandomAffine with border {self.border} leaves nothing of an image of '
                f'{size[0]}x{size[1]} (height x width); a negative border is for '
                'images from Mosaic, which are all of one size'
            )
        return (new,)

    def sample(self, size, random: np.random.Generator, pool) -> tuple[Motion, ()]:
        """A motion at random, and no further images."""

        def either_way(limit):
            return random.uniform(-limit, limit)

        return Motion(
            rotation=either_way(self.max_rotate_degree),
            scale=random.uniform(*self.scaling_ratio_range),
            shear_x=either_way(self.max_shear_degree),
            shear_y=either_way(self.max_shear_degree),
            right=either_way(self.max_translate_ratio),
            down=either_way(self.max_translate_ratio),
        ), ()

    def objects(self, objects: Objects, size: Size, sampled: Motion, others) -> Objects:
        """The objects in the result."""
        (new_size,) = self.sizes(size)
        boxes = project_boxes(objects.boxes, warp_matrix(sampled, new_size))
        return inside(objects.with_boxes(clip_boxes(boxes, new_size)), new_size)

    def image(self, image: np.ndarray, sampled: Motion, others) -> np.ndarray:
        """(H,W,3) uint8: the image moved."""
        (new_size,) = self.sizes(image.shape[:2])
        return warp(image, warp_matrix(sampled, new_size), new_size, self.border_val)


def warp(
    image: np.ndarray, matrix: np.ndarray, size: Size, border_val: tuple[int, int, int]
) -> np.ndarray:
    """The image at `size`, moved by a matrix (3,3); `border_val` as in RandomAffine."""
    return cv2.warpPerspective(
        image, matrix, dsize=size[::-1], borderValue=border_val[::-1]
    )


def warp_matrix(motion: Motion, size: Size) -> np.ndarray:
    """(3,3) float32: takes pixels (x, y, 1) to those of the result of `size`."""
    angle = math.radians(motion.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    slope_x, slope_y = (
        np.tan(math.radians(shear)) for shear in (motion.shear_x, motion.shear_y)
    )
    right, down = motion.right * size[1], motion.down * size[0]
    rotation = [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]]
    scaling = [[motion.scale, 0, 0], [0, motion.scale, 0], [0, 0, 1]]
    shear = [[1, slope_x, 0], [slope_y, 1, 0], [0, 0, 1]]
    translation = [[1, 0, right], [0, 1, down], [0, 0, 1]]
    first, second, third, fourth = (
        np.array(matrix, np.float32)
        for matrix in (translation, shear, rotation, scaling)
    )
    return first @ second @ third @ fourth


def project_boxes(boxes: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """(G,4) float32: the smallest boxes around the four projected corners of each."""
    if not len(boxes):
        return boxes
    x1, y1, x2, y2 = boxes.T
    corners = np.stack([[x1, x2, x1, x2], [y1, y1, y2, y2]])  # (2, 4, G)
    x, y, w = (
        row[0] * corners[0] + row[1] * corners[1] + row[2]
        for row in matrix.astype(np.float32)
    )
    x, y = x / w, y / w
    return np.stack([x.min(0), y.min(0), x.max(0), y.max(0)], axis=1)
