"""Which records form global batch `step`, on which canvas, with which flips.

All of it is a function of (seed, step) and of the data set, and of nothing else: not of
the number of hosts or workers, nor of what was loaded before.
"""

import dataclasses
import functools

import numpy as np

from atss_jax.data.records import Records
from atss_jax.data.transforms import rescale_size

Canvas = tuple[int, int]
"""Height, width in pixels."""


def round_up(size: int, divisor: int) -> int:
    """The next multiple of `divisor`."""
    return -(-size // divisor) * divisor


def default_canvases(
    img_scale: tuple[int, int], keep_ratio: bool, size_divisor: int
) -> tuple[Canvas, ...]:
    """Landscape and portrait canvases that hold any picture resized to `img_scale`."""
    if not keep_ratio:
        width, height = img_scale
        return ((round_up(height, size_divisor), round_up(width, size_divisor)),)
    long, short = (
        round_up(side, size_divisor) for side in (max(img_scale), min(img_scale))
    )
    return ((short, long), (long, short)) if long != short else ((short, long),)


def canvas_of_each(
    records: Records,
    canvases: tuple[Canvas, ...],
    img_scale: tuple[int, int],
    keep_ratio: bool,
    size_divisor: int,
) -> np.ndarray:
    """(N,) index of the smallest canvas that holds each picture, resized and padded.

    Args:
        records: the pictures.
        canvases: to choose from; of two with one area the first is taken.
        img_scale: mmdet's: the picture fits (long, short) either way round.
        keep_ratio: if not, every picture becomes exactly `img_scale` (width, height).
        size_divisor: padding of the picture alone.

    Raises:
        ValueError: a picture that fits none.
    """
    order = sorted(range(len(canvases)), key=lambda i: canvases[i][0] * canvases[i][1])
    # Sets of pictures have few different sizes: look each up once.
    unique, first, inverse = np.unique(
        records.sizes, axis=0, return_index=True, return_inverse=True
    )
    chosen = np.empty(len(unique), np.int64)
    for row, size in enumerate(unique):
        new = rescale_size(tuple(size), img_scale, keep_ratio)
        height, width = (round_up(side, size_divisor) for side in new)
        fits = [
            i for i in order if height <= canvases[i][0] and width <= canvases[i][1]
        ]
        if not fits:
            record = records[int(first[row])]
            raise ValueError(
                f'image id {record.image_id} ({record.file_name or "generated"}) of '
                f'{size[0]}x{size[1]} (height x width) becomes {height}x{width} with '
                f'img_scale {img_scale} and padding, which fits none of data.canvases '
                f'= {canvases}; add a larger one, or set it to None'
            )
        chosen[row] = fits[0]
    return chosen[inverse.reshape(-1)]


@dataclasses.dataclass(frozen=True, eq=False)
class TrainPlan:
    """The training stream.

    Each epoch shuffles the records of each canvas, fills the last batch of each canvas
    up with records from the start of that order (as mmdet 2.x does for its aspect-ratio
    groups), and shuffles the batches.

    Attributes:
        canvas_index: (N,) canvas of each record.
        canvases: all canvases.
        batch_size: rows of the global batch.
        seed: decides everything else.
    """

    canvas_index: np.ndarray
    canvases: tuple[Canvas, ...]
    batch_size: int
    seed: int

    @property
    def steps_per_epoch(self) -> int:
        """Batches an epoch; the same in each."""
        counts = np.bincount(self.canvas_index, minlength=len(self.canvases))
        return int(np.sum(-(-counts // self.batch_size)))

    def canvas(self, step: int) -> Canvas:
        """The canvas of a batch."""
        rows = self.records(step)
        return self.canvases[self.canvas_index[rows[0]]]

    def records(self, step: int) -> np.ndarray:
        """(B,) index of each row's record in global batch `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return _epoch_batches(self, epoch)[position]

    def random(self, step: int, row: int) -> np.random.Generator:
        """The random numbers of one row of one batch."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, 1, step, row]))

    def substitutes(self, step: int, row: int, most: int = 100) -> np.ndarray:
        """Records of the same canvas, to try in this order if a row's own is bad."""
        own = self.records(step)[row]
        alike = np.flatnonzero(self.canvas_index == self.canvas_index[own])
        random = np.random.default_rng(
            np.random.SeedSequence([self.seed, 2, step, row])
        )
        return random.permutation(alike[alike != own])[:most]


@functools.lru_cache(maxsize=2)
def _epoch_batches(plan, epoch):
    """(steps, B) records of an epoch. Depends on (seed, epoch) only; kept for speed."""
    random = np.random.default_rng(np.random.SeedSequence([plan.seed, 0, epoch]))
    batches = []
    for canvas in range(len(plan.canvases)):
        members = np.flatnonzero(plan.canvas_index == canvas)
        count = round_up(len(members), plan.batch_size)
        batches.append(np.resize(random.permutation(members), count))
    batches = np.concatenate(batches).astype(np.int64).reshape(-1, plan.batch_size)
    return batches[random.permutation(len(batches))]


def eval_batches(
    canvas_index: np.ndarray, batch_size: int
) -> list[tuple[int, np.ndarray]]:
    """(canvas, (B,) records) of batches: each record once, by canvas; -1 fills up."""
    batches = []
    for canvas in np.unique(canvas_index):
        members = np.flatnonzero(canvas_index == canvas)
        rows = np.full(round_up(len(members), batch_size), -1)
        rows[: len(members)] = members
        batches += [(int(canvas), part) for part in rows.reshape(-1, batch_size)]
    return batches
