"""The plan of the stream: which records form global batch `step`, on which canvas.

It is a function of (seed, step) and the data set and of nothing else: neither the
number of hosts or workers nor what was loaded before has any influence.

Random numbers have seeds of their own for each purpose, which the second number names:
(seed, 0, epoch) for the order of an epoch, (seed, 1, step, row) for the view of a row,
(seed, 2, step, row) for the records that replace a bad image, in the loader
(seed, 3, step, row, record) for their views, and in `augment.sequence`
(seed, 4 or 5, step, row, position) for each transform of the config's lists.
"""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from atss_jax.data.records import Records
from atss_jax.data.transforms import Jitter

Canvas = tuple[int, int]
"""Height, width in pixels."""


@dataclasses.dataclass(frozen=True, eq=False)
class TrainPlan:
    """The training stream.

    Each epoch shuffles the records of each canvas, fills up the last batch of each
    canvas with records from the start of that order (as mmdet 2.x does for its
    aspect-ratio groups), and shuffles the batches.

    Attributes:
        canvas_index: (N,) canvas of each record.
        canvases: all canvases.
        batch_size: number of rows of the global batch.
        seed: decides everything else.
        occurrences: (N,) how often an epoch shows each record; None: once.
    """

    canvas_index: np.ndarray
    canvases: tuple[Canvas, ...]
    batch_size: int
    seed: int
    occurrences: np.ndarray | None = None

    @functools.cached_property
    def steps_per_epoch(self) -> int:
        """Number of batches in an epoch, the same in each."""
        canvases = range(len(self.canvases))
        counts = np.array([len(self.members(canvas)) for canvas in canvases])
        return int(np.sum(-(-counts // self.batch_size)))

    def members(self, canvas: int) -> np.ndarray:
        """Records of a canvas, each as often as an epoch shows it.

        The first pass has all of them, the second those that occur twice, and so on.
        """
        records = np.flatnonzero(self.canvas_index == canvas)
        if self.occurrences is None:
            return records
        counts = self.occurrences[records]
        passes = range(counts.max(initial=0))
        return np.concatenate([records[:0], *(records[counts > n] for n in passes)])

    def canvas(self, step: int) -> Canvas:
        """The canvas that holds the images of a batch at any size they may be shown."""
        rows = self.records(step)
        return self.canvases[self.canvas_index[rows[0]]]

    def records(self, step: int) -> np.ndarray:
        """(B,) index of each row's record in global batch `step`."""
        epoch, position = divmod(step, self.steps_per_epoch)
        return _epoch_batches(self, epoch)[position]

    def random(self, step: int, row: int) -> np.random.Generator:
        """The source of random numbers of one row of one batch."""
        return np.random.default_rng(np.random.SeedSequence([self.seed, 1, step, row]))

    def sample_other(self, record: int, random: np.random.Generator) -> int:
        """A random record of the same canvas, to take the place of `record`."""
        members = np.flatnonzero(self.canvas_index == self.canvas_index[record])
        return int(members[random.integers(len(members))])

    def substitutes(self, step: int, row: int, count: int = 100) -> np.ndarray:
        """Records of the same canvas, to try in this order if a row's own is bad."""
        record = self.records(step)[row]
        members = np.flatnonzero(self.canvas_index == self.canvas_index[record])
        random = np.random.default_rng(
            np.random.SeedSequence([self.seed, 2, step, row])
        )
        return random.permutation(members[members != record])[:count]


@functools.lru_cache(maxsize=2)
def _epoch_batches(plan, epoch):
    """(steps, B) records of an epoch: a function of (seed, epoch), cached for speed."""
    random = np.random.default_rng(np.random.SeedSequence([plan.seed, 0, epoch]))
    batches = []
    for canvas in range(len(plan.canvases)):
        members = plan.members(canvas)
        count = round_up(len(members), plan.batch_size)
        batches.append(np.resize(random.permutation(members), count))
    batches = np.concatenate(batches).astype(np.int64).reshape(-1, plan.batch_size)
    return batches[random.permutation(len(batches))]


def eval_batches(
    canvas_index: np.ndarray, batch_size: int
) -> list[tuple[int, np.ndarray]]:
    """The batches of an evaluation: index of the canvas, (B,) records.

    Each record occurs once; records of one canvas keep their order; -1 fills up the
    last batch of a canvas.
    """
    batches = []
    for canvas in np.unique(canvas_index):
        members = np.flatnonzero(canvas_index == canvas)
        rows = np.full(round_up(len(members), batch_size), -1)
        rows[: len(members)] = members
        batches += [(int(canvas), part) for part in rows.reshape(-1, batch_size)]
    return batches


# Canvases ----------------------------------------------------------------------------

_NO_JITTER = Jitter()


def round_up(size: int, divisor: int) -> int:
    """The next multiple of `divisor`."""
    return -(-size // divisor) * divisor


def default_canvases(
    img_scale: tuple[int, int],
    keep_ratio: bool,
    size_divisor: int,
    jitter: Jitter = _NO_JITTER,
) -> tuple[Canvas, ...]:
    """A landscape and a portrait canvas, which hold any view of any image."""
    scales = jitter.largest_scales(img_scale)
    if not keep_ratio:
        width, height = (max(sides) for sides in zip(*scales, strict=True))
        sizes = [(height, width)]
    else:
        long, short = (max(side(scale) for scale in scales) for side in (max, min))
        sizes = [(short, long), (long, short)]
    canvases = [
        tuple(round_up(side, size_divisor) for side in jitter.cropped(size))
        for size in sizes
    ]
    return tuple(dict.fromkeys(canvases))


def smallest_canvas(
    canvases: tuple[Canvas, ...], size: tuple[int, int], size_divisor: int
) -> Canvas | None:
    """The canvas of least area that holds a padded image; None if none does.

    Args:
        canvases: to choose from; of several with the same area the first is taken.
        size: height, width of the image.
        size_divisor: sides of the image are padded to multiples of it.
    """
    height, width = (round_up(int(side), size_divisor) for side in size)
    fits = [c for c in canvases if height <= c[0] and width <= c[1]]
    return min(fits, key=lambda canvas: canvas[0] * canvas[1], default=None)


def canvas_of_each(
    records: Records,
    canvases: tuple[Canvas, ...],
    img_scale: tuple[int, int],
    keep_ratio: bool,
    size_divisor: int,
    jitter: Jitter = _NO_JITTER,
) -> np.ndarray:
    """(N,) index of the smallest canvas that holds each image, resized and padded.

    Args:
        records: the images.
        canvases: to choose from; of several with the same area the first is taken.
        img_scale: mmdet's: the image fits (long, short) either way round.
        keep_ratio: if not, every image becomes exactly `img_scale` (width, height).
        size_divisor: sides of an image are padded to multiples of it.
        jitter: random scale and crop; the canvas holds the largest result.

    Raises:
        ValueError: an image fits none.
    """

    def largest(size):
        return jitter.largest(size, img_scale, keep_ratio)

    return canvas_of_sizes(records, canvases, largest, size_divisor, img_scale)


def canvas_of_sizes(
    records: Records,
    canvases: tuple[Canvas, ...],
    largest: Callable[[tuple[int, int]], tuple[int, int]],
    size_divisor: int,
    img_scale: tuple[int, int],
) -> np.ndarray:
    """As `canvas_of_each`, with any rule for the size that an image is shown at.

    Args:
        records: the images.
        canvases: to choose from.
        largest: from the height, width of an image to those that no view of it exceeds.
        size_divisor: sides of an image are padded to multiples of it.
        img_scale: for messages.

    Raises:
        ValueError: an image fits none.
    """
    # Data sets have few different image sizes: each is looked up once.
    unique, first, inverse = np.unique(
        records.sizes, axis=0, return_index=True, return_inverse=True
    )
    chosen = np.empty(len(unique), np.int64)
    for row, size in enumerate(unique):
        new = largest((int(size[0]), int(size[1])))
        canvas = smallest_canvas(canvases, new, size_divisor)
        if canvas is None:
            record = records[int(first[row])]
            height, width = (round_up(side, size_divisor) for side in new)
            raise ValueError(
                f'image id {record.image_id} ({record.file_name or "generated"}) of '
                f'{size[1]}x{size[0]} (width x height) becomes {width}x{height} with '
                f'img_scale {img_scale} and padding, which fits none of data.canvases '
                f'= {canvases} (height, width); add a larger one, or set it to None'
            )
        chosen[row] = canvases.index(canvas)
    return chosen[inverse.reshape(-1)]
