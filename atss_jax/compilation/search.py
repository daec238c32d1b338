"""Searches the largest batch with which a program fits into the memory of a chip."""

from collections.abc import Callable
from typing import Any, NamedTuple

from atss_jax.compilation.compiled import Compiled, OutOfMemory

_MOST_TRIES = 5


class Search(NamedTuple):
    """The largest number of images per chip with which a program fits.

    Attributes:
        largest: what the compiler says with that number; None: nothing fits.
        tried: each number that was compiled in this order, and the bytes that it needs;
            None: more than there are, but the compiler does not say how many.
        too_many: the least number that was compiled and does not fit; None: all fit.
    """

    largest: Compiled | None
    tried: dict[int, int | None]
    too_many: int | None

    @property
    def is_exact(self) -> bool:
        """Whether one image more was compiled too, and does not fit."""
        fits = 0 if self.largest is None else self.largest.samples
        return self.too_many == fits + 1

    def to_json(self) -> dict[str, Any]:
        """Plain values; those of the largest number under their own names."""
        values = {} if self.largest is None else self.largest.to_json()
        tried = {str(number): needed for number, needed in self.tried.items()}
        return {**values, 'tried': tried, 'too_many': self.too_many}


def largest_batch(
    compile_with: Callable[[int], Compiled], hbm: int, start: int, upwards: bool = False
) -> Search:
    """Searches the largest number of images per chip by compiling a few times.

    The next number is where a line through the bytes that two others need meets the
    capacity of a chip; after the first, the line begins at no bytes.

    Args:
        compile_with: compiles with a number of images; raises OutOfMemory.
        hbm: bytes of HBM of a chip.
        start: number to begin with.
        upwards: whether to search above it if it fits.
    """
    fits, too_many, tried = None, None, {}
    number = start
    while len(tried) < _MOST_TRIES:
        try:
            fits = compile_with(number)
            tried[number] = fits.memory.total
        except OutOfMemory as error:
            too_many, tried[number] = number, error.needed
        search = Search(fits, tried, too_many)
        if search.is_exact or (too_many is None and not upwards):
            break
        number = _next_number(tried, hbm, fits.samples if fits else 0, too_many)
    return search


def _next_number(tried, hbm, fits, too_many):
    """A number above `fits` and below `too_many`, which may be None."""
    points = [(0, 0), *sorted((n, size) for n, size in tried.items() if size)]
    (first, least), (second, more) = points[max(len(points) - 2, 0)], points[-1]
    if more > least:
        guess = first + int((hbm - least) * (second - first) / (more - least))
    else:
        guess = 2 * fits + 1 if too_many is None else (fits + too_many) // 2
    most = max(4 * fits, 1) if too_many is None else too_many - 1
    return min(max(guess, fits + 1), most)
