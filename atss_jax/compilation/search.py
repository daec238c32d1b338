"""Searches the largest batch with which a program fits into the memory of a chip."""

from collections.abc import Callable
from typing import Any, NamedTuple

from atss_jax.compilation.compiled import Compiled, OutOfMemory

_MOST_TRIES = 8
# Above this share of a chip's memory the compiler computes arrays twice rather than
# keep them, so that bytes grow no longer with the number of images.
_NEARLY_FULL = 0.85
_GROWTH = 1.25  # of the number of images from there on


class Search(NamedTuple):
    """The largest number of images per chip with which a program fits.

    Attributes:
        largest: what the compiler says with that number; None: nothing fits.
        tried: each number that was planned in this order, and the bytes that it needs;
            None: more than there are, but the compiler does not say how many.
        too_many: the least number that was planned and does not fit; None: all fit.
        step: from this number on only its multiples are tried.
    """

    largest: Compiled | None
    tried: dict[int, int | None]
    too_many: int | None
    step: int = 1

    @property
    def is_exact(self) -> bool:
        """Whether the next number was planned too, and does not fit."""
        fits = 0 if self.largest is None else self.largest.samples
        return self.too_many == _after(fits, self.step)

    def to_json(self) -> dict[str, Any]:
        """Plain values; those of the largest number under their own names."""
        values = {} if self.largest is None else self.largest.to_json()
        tried = {str(number): needed for number, needed in self.tried.items()}
        return {
            **values,
            'tried': tried,
            'too_many': self.too_many,
            'largest_is_exact': self.is_exact,
        }


def largest_batch(
    plan_with: Callable[[int], Compiled],
    hbm: int,
    start: int,
    upwards: bool = False,
    step: int = 1,
) -> Search:
    """Searches the largest number of images per chip by planning a few times.

    The next number is where a line through the bytes that two others need meets the
    capacity of a chip; after the first, the line begins at no bytes. Near the capacity,
    where bytes say nothing, it is a quarter more or half-way.

    Args:
        plan_with: plans with a number of images; raises OutOfMemory.
        hbm: bytes of HBM of a chip.
        start: number to begin with.
        upwards: whether to search above it if it fits.
        step: from this number on only its multiples are tried.
    """
    fits, too_many, tried = None, None, {}
    number = start
    while len(tried) < _MOST_TRIES:
        try:
            fits = plan_with(number)
            tried[number] = fits.memory.total
        except OutOfMemory as error:
            too_many, tried[number] = number, error.needed
        search = Search(fits, tried, too_many, step)
        if search.is_exact or (too_many is None and not upwards):
            break
        most = fits.samples if fits else 0
        guess = _guess(tried, hbm, most, too_many)
        number = max(_on_grid(guess, step), _after(most, step))
        if too_many is not None and number >= too_many:
            number = _before(too_many, step)
    return search


def _guess(tried, hbm, fits, too_many):
    """A number above `fits` and below `too_many`, about."""
    sizes = {0: 0, **{number: size for number, size in tried.items() if size}}
    is_near = sizes[fits] > _NEARLY_FULL * hbm
    if too_many is None:
        first, second = sorted(sizes)[-2:]
        otherwise = round(fits * _GROWTH)
    else:
        first, second = fits, too_many
        otherwise = (fits + too_many) // 2
    if is_near or sizes.get(second, 0) <= sizes[first]:
        return otherwise
    per_image = (sizes[second] - sizes[first]) / (second - first)
    return first + int((hbm - sizes[first]) / per_image)


def _on_grid(number, step):
    return number if number < step else number // step * step


def _after(number, step):
    """The next number on the grid."""
    return number + 1 if number < step else _on_grid(number, step) + step


def _before(number, step):
    """The one before on the grid."""
    return number - 1 if number <= step else _on_grid(number - 1, step)
