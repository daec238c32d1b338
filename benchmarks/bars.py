"""Draws a table of times in a Markdown file as bars, one group for each row.

    python benchmarks/bars.py benchmarks/RESULTS.md 'Before and after' bars.png

Draws the first table below that heading: names in the first column, times in the
others. The longest bar of each row has full width, so that rows of milliseconds and of
minutes are all legible; bars of different rows cannot be compared.
"""

import pathlib
import re
import sys

import cv2
import numpy as np
import timing

from atss_jax.drawing.text import fit_text, put_text

_UNITS = {'µs': 1e-6, 'ms': 1e-3, 's': 1.0}
_COLORS = ((150, 150, 150), (7, 87, 186), (200, 70, 10))
_TEXT_COLOR, _TEXT_SIZE = (60, 60, 60), 14
# In pixels; `_MARGIN` is the width for the times after the bars.
_BAR, _GAP, _LEFT, _WIDTH, _MARGIN = 18, 16, 300, 900, 90

Table = tuple[list[str], list[list[str]]]


def read_table(page: str, heading: str) -> Table:
    """Header and rows of the first table below a heading of a Markdown page.

    Raises:
        ValueError: there is no such table.
    """
    section = re.search(rf'^#+ {re.escape(heading)}$(.*?)(^#|\Z)', page, re.M | re.S)
    lines = re.findall(r'^\|(.*)\|$', section[1], re.M) if section else []
    cells = [[cell.strip() for cell in line.split('|')] for line in lines]
    if len(cells) < 3:
        raise ValueError(f'no table below a heading {heading!r}')
    return cells[0], cells[2:]


def seconds(text: str) -> float:
    """Reads a cell such as `12.3 ms`.

    Raises:
        ValueError: it is not a time.
    """
    match = re.fullmatch(r'([\d.,]+) (µs|ms|s)', text)
    if not match:
        raise ValueError(f'{text!r}: expected a time such as 12.3 ms')
    return float(match[1].replace(',', '')) * _UNITS[match[2]]


def draw(header: list[str], rows: list[list[str]]) -> np.ndarray:
    """The chart, (H,W,3) uint8 RGB."""
    series = header[1:]
    group = len(series) * _BAR + _GAP
    height = group * len(rows) + 3 * _GAP + _BAR
    panel = np.full((height, _WIDTH, 3), 255, np.uint8)
    x = _LEFT
    for number, name in enumerate(series):
        cv2.rectangle(panel, (x, _GAP), (x + 14, _GAP + 14), _COLORS[number], -1)
        text = fit_text(name, _TEXT_SIZE, _WIDTH)
        put_text(panel, text, x + 22, _GAP + 13, _TEXT_COLOR)
        x += text.width + 60
    for index, (name, *cells) in enumerate(rows):
        _group(panel, 3 * _GAP + index * group, name, cells)
    return panel


def _group(panel, top, name, cells):
    text = fit_text(name, _TEXT_SIZE, _LEFT - 20)
    middle = top + len(cells) * _BAR // 2
    put_text(panel, text, _LEFT - 12 - text.width, middle + 5, _TEXT_COLOR)
    longest = max(map(seconds, cells))
    for number, cell in enumerate(cells):
        y = top + number * _BAR
        length = (_WIDTH - _LEFT - _MARGIN) * seconds(cell) / longest
        end = _LEFT + max(round(length), 1)
        cv2.rectangle(panel, (_LEFT, y), (end, y + _BAR - 3), _COLORS[number], -1)
        put_text(panel, fit_text(cell, 12, _MARGIN), end + 6, y + 12, _TEXT_COLOR)


def main() -> int:
    """Reads the page, writes the image."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('page', type=pathlib.Path)
    parser.add_argument('heading')
    parser.add_argument('out', type=pathlib.Path, help='PNG')
    flags = parser.parse_args()
    try:
        image = draw(*read_table(flags.page.read_text(), flags.heading))
    except (ValueError, OSError) as error:
        print(f'bars.py: {error}', file=sys.stderr)
        return 1
    cv2.imwrite(str(flags.out), image[..., ::-1])
    return 0


if __name__ == '__main__':
    sys.exit(main())
