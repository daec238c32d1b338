"""Contact sheets: images side by side, with captions and headings."""

from collections.abc import Sequence

import numpy as np

from atss_jax.drawing.boxes import check_image, draw_boxes, scale_up
from atss_jax.drawing.text import (
    MIN_TEXT_PIXELS,
    WHITE,
    Color,
    fit_text,
    put_text,
    text_color_on,
)


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
    gap: int = 8,
    background: Color = WHITE,
) -> np.ndarray:
    """Lays images of any sizes on a sheet, row by row, each centered in its cell.

    A column is as wide as its widest image, a row as tall as its tallest. Captions go
    under the images, headings over the columns; long ones are shrunk to the width.
    Text beyond ASCII needs OpenCV 5, older versions draw question marks.

    Raises:
        ValueError: there are no images, or the number of captions is not that of the
            images, or the number of headings not that of the columns.
    """
    _check_sheet(images, columns, captions, headings, gap)
    columns = min(columns, len(images))
    rows = [images[k : k + columns] for k in range(0, len(images), columns)]
    widths = [
        max(image.shape[1] for image in images[c::columns]) for c in range(columns)
    ]
    heights = [max(image.shape[0] for image in row) for row in rows]
    text_size = max(MIN_TEXT_PIXELS, round(min(widths) / 28))
    head = 3 * text_size if headings else 0
    foot = round(2.2 * text_size) if captions else 0
    lefts = gap + np.cumsum([0, *(width + gap for width in widths)])
    tops = gap + head + np.cumsum([0, *(height + foot + gap for height in heights)])
    sheet = np.full((tops[-1], lefts[-1], 3), background, np.uint8)
    color = text_color_on(background)
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        height, width = image.shape[:2]
        x = lefts[column] + (widths[column] - width) // 2
        y = tops[row] + (heights[row] - height) // 2
        sheet[y : y + height, x : x + width] = image
        if captions:
            area = (lefts[column], tops[row] + heights[row], widths[column], foot)
            _write_centered(sheet, captions[k], area, text_size, color)
    for column, heading in enumerate((headings or ())[:columns]):
        area = (lefts[column], gap, widths[column], head)
        _write_centered(sheet, heading, area, 1.3 * text_size, color)
    return sheet


def detection_sheet(
    images: Sequence[np.ndarray],
    ground_truth: Sequence[tuple],
    detections: Sequence[tuple],
    classes: Sequence[str],
    columns: int = 2,
    min_score: float = 0.3,
    min_side: int = 320,
) -> np.ndarray:
    """Pairs of images side by side: ground truth and detections.

    Args:
        images: (H,W,3) uint8 RGB each.
        ground_truth: (boxes, labels) for each image, in its pixels.
        detections: (boxes, labels, scores) for each image, in its pixels.
        classes: the names.
        columns: pairs in a row.
        min_score: detections below it are not drawn.
        min_side: smaller images are enlarged, see `scale_up`.

    Raises:
        ValueError: the three sequences differ in length.
    """
    if not len(images) == len(ground_truth) == len(detections):
        raise ValueError(
            'expected as many items of ground truth and detections as images, got '
            f'{len(ground_truth)} and {len(detections)} for {len(images)} images'
        )
    panels = []
    for image, objects, detected in zip(images, ground_truth, detections, strict=True):
        boxes, labels = objects
        large, scaled = scale_up(image, boxes, min_side)
        panels.append(draw_boxes(large, scaled, labels, classes))
        kept = np.asarray(detected[2]) >= min_score
        boxes, labels, scores = (np.asarray(values)[kept] for values in detected)
        large, scaled = scale_up(image, boxes, min_side)
        panels.append(draw_boxes(large, scaled, labels, classes, scores))
    headings = ('ground truth', 'detections') * columns
    return contact_sheet(panels, 2 * columns, headings=headings)


def _write_centered(
    sheet, text: str, area: tuple[int, int, int, int], size: float, color: Color
):
    """Writes text in the middle of an area of the sheet: left, top, width, height."""
    left, top, width, height = area
    line = fit_text(text, size, width)
    x = (width - line.width) // 2
    y = (height + line.ascent - line.descent) // 2
    target = sheet[top : top + height, left : left + width]
    lettered = target.copy()
    put_text(lettered, line, max(x, 0), y, color)
    target[:] = lettered


def _check_sheet(images, columns: int, captions, headings, gap: int) -> None:
    if not len(images) or columns < 1 or gap < 0:
        raise ValueError(
            'expected images, columns >= 1 and gap >= 0, got '
            f'{len(images)} images, columns={columns}, gap={gap}'
        )
    for image in images:
        check_image(image)
    for name, texts, count in (
        ('captions', captions, len(images)),
        ('headings', headings, columns),
    ):
        if texts is not None and len(texts) != count:
            raise ValueError(f'expected {count} {name}, got {len(texts)}')
