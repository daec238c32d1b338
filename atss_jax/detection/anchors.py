"""Anchors on the grids of the pyramid: NumPy constants when a program is traced."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int


@dataclasses.dataclass(frozen=True)
class AnchorGenerator:
    """mmdet's AnchorGenerator with octave scales.

    The anchors of a cell are listed ratio by ratio, then scale by scale. Their center
    is `(column * stride, row * stride)`: the corner of the cell, not its middle.

    Attributes:
        strides: pixels per cell, of each level.
        ratios: height over width.
        octave_base_scale: side of the first square anchor, in strides.
        scales_per_octave: number n of sizes, `octave_base_scale * 2**(i/n)`.
        center_offset: shift of the centers, in strides.
    """

    strides: tuple[int, ...] = (8, 16, 32, 64, 128)
    ratios: tuple[float, ...] = (1.0,)
    octave_base_scale: float = 8
    scales_per_octave: int = 1
    center_offset: float = 0.0

    @property
    def num_anchors(self) -> int:
        """Number of anchors per cell."""
        return len(self.ratios) * self.scales_per_octave

    def base_anchors(self, level: int) -> Float[np.ndarray, 'a 4']:
        """Anchors of the cell in row 0, column 0; computed in float32, as in mmdet."""
        stride = np.float32(self.strides[level])
        octave = 2 ** (np.arange(self.scales_per_octave) / self.scales_per_octave)
        scales = np.float32(octave * self.octave_base_scale)
        height_ratios = np.sqrt(np.float32(self.ratios))
        width_ratios = np.float32(1) / height_ratios
        widths = (stride * width_ratios[:, None] * scales).reshape(-1)
        heights = (stride * height_ratios[:, None] * scales).reshape(-1)
        center = np.float32(self.center_offset) * stride
        half_w, half_h = np.float32(0.5) * widths, np.float32(0.5) * heights
        corners = [center - half_w, center - half_h, center + half_w, center + half_h]
        return np.stack(corners, -1)

    def grid(self, level: int, height: int, width: int) -> Float[np.ndarray, 'n 4']:
        """All anchors of a level of (height, width) cells, by row, column, anchor."""
        stride = self.strides[level]
        y, x = np.meshgrid(
            np.arange(height, dtype=np.float32) * stride,
            np.arange(width, dtype=np.float32) * stride,
            indexing='ij',
        )
        shifts = np.stack([x, y, x, y], -1)[:, :, None]
        return (shifts + self.base_anchors(level)).reshape(-1, 4)

    def at(
        self, level: int, index: Int[Array, '*p'], width: int
    ) -> Float[Array, '*p 4']:
        """The anchors of a level with the given indices in its `grid`.

        Args:
            level: index of the pyramid level.
            index: index of each anchor.
            width: cells per row; may be known only when the program runs.
        """
        cell, anchor_of_cell = jnp.divmod(index, self.num_anchors)
        row, column = jnp.divmod(cell, width)
        shift = jnp.stack([column, row, column, row], -1) * self.strides[level]
        base = jnp.asarray(self.base_anchors(level))
        # One anchor per cell needs no look-up.
        base = base[anchor_of_cell] if self.num_anchors > 1 else base[0]
        return shift.astype(base.dtype) + base

    def grid_sizes(self, canvas: tuple[int, int]) -> list[tuple[int, int]]:
        """Rows and columns of each level on a canvas of (height, width) pixels."""
        return [
            (math.ceil(canvas[0] / stride), math.ceil(canvas[1] / stride))
            for stride in self.strides
        ]

    def all(self, canvas: tuple[int, int]) -> Float[np.ndarray, 'A 4']:
        """The anchors of all levels on a canvas, P3 first."""
        sizes = self.grid_sizes(canvas)
        return np.concatenate([self.grid(i, *size) for i, size in enumerate(sizes)])
