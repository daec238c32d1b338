"""Searches the largest batch with which a program fits into the memory of a chip."""

from collections.abc import Callable
from typing import Any, NamedTuple

from atss_jax.compilation.compiled import Compiled, OutOfMemory

_MOST_TRIES = 8
# Above this share of a chip's memory the compiler computes arrays twice rather than
# keep them, so that bytes grow no longer with the number of images.
_NEARLY_FULL = 0.85
_GROWTH = 1.25  # of the number of images from there on
_MOST_GROWTH = 8  # of the number of images below


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
        """Whether the next number does not fit, as was planned for it or for less."""
        number = 0 if self.largest is None else self.largest.samples
        return (
            self.too_many is not None
            and number == _on_grid(number, self.step)
            and self.too_many <= after(number, self.step)
        )

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
    where bytes say nothing, it is a quarter more, or half-way as after two refusals.

    Args:
        plan_with: plans with a number of images; raises OutOfMemory.
        hbm: bytes of HBM of a chip.
        start: number to begin with.
        upwards: whether to search above it if it fits.
        step: from this number on only its multiples are tried.
    """
    largest, too_many, tried = None, None, {}
    number = start
    while number not in tried and len(tried) < _MOST_TRIES:
        try:
            largest = plan_with(number)
            tried[number] = largest.memory.total
        except OutOfMemory as error:
            too_many, tried[number] = number, error.needed
        search = Search(largest, tried, too_many, step)
        if search.is_exact or (too_many is None and not upwards):
            break
        fitting = largest.samples if largest else 0
        guess = _guess(tried, hbm, fitting, too_many)
        number = max(_on_grid(guess, step), after(fitting, step))
        if too_many is not None and number >= too_many:
            number = max(before(too_many, step), fitting)
    return search


def _guess(tried, hbm, fitting, too_many):
    """A number above `fitting` and below `too_many`, about."""
    sizes = {0: 0, **{number: size for number, size in tried.items() if size}}
    refused = [number for number in tried if number > fitting]
    is_line_useless = sizes[fitting] > _NEARLY_FULL * hbm or len(refused) > 1
    if too_many is None:
        first, second = sorted(sizes)[-2:]
        otherwise = round(fitting * _GROWTH)
    else:
        first, second = fitting, too_many
        otherwise = (fitting + too_many) // 2
    if is_line_useless or sizes.get(second, 0) <= sizes[first]:
        return otherwise
    per_image = (sizes[second] - sizes[first]) / (second - first)
    guess = first + int((hbm - sizes[first]) / per_image)
    return guess if too_many is not None else min(guess, _MOST_GROWTH * fitting)


def after(number: int, step: int) -> int:
    """The next number that is tried: from `step` on a multiple of it."""
    return number + 1 if number < step else _on_grid(number, step) + step


def before(number: int, step: int) -> int:
    """The one before that is tried."""
    return number - 1 if number <= step else _on_grid(number - 1, step)


def _on_grid(number, step):
    return number if number < step else number // step * step
