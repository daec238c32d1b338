"""Boxes on images, images on sheets: NumPy arrays in and out, all RGB uint8."""

import colorsys
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from atss_jax.drawing import tags
from atss_jax.drawing.text import (
    MIN_TEXT_PIXELS,
    WHITE,
    Color,
    class_text,
    fit,
    ink_on,
    put,
)

# The golden ratio spreads hues evenly, however many classes there are.
HUE_STEP = (5**0.5 - 1) / 2
TONES = ((0.85, 1.0), (0.6, 0.95), (1.0, 0.75))


def class_color(label: int) -> Color:
    """The color of a class: always the same, far from its neighbors'."""
    saturation, value = TONES[label % len(TONES)]
    rgb = colorsys.hsv_to_rgb(label * HUE_STEP % 1, saturation, value)
    return tuple(round(255 * channel) for channel in rgb)


def scale_up(
    image: np.ndarray, boxes: np.ndarray, min_side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges an image and its boxes until the shorter side has `min_side` pixels.

    Tags of readable size would hide most of a small image. An image that is large
    enough comes back as a copy of the same size.
    """
    _check_image(image)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    height, width = image.shape[:2]
    factor = max(1, min_side / min(height, width))
    size = round(width * factor), round(height * factor)
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    ratio = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return enlarged, boxes * ratio


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    scores: np.ndarray | None = None,
) -> np.ndarray:
    """Draws boxes with their class, and score if given, on a copy of an image.

    Lines and letters grow with the image, and are smaller where boxes are small or
    crowded. The best scores are drawn last and lie on top; without scores, the small
    boxes do. Names stay inside the image. One that would hide another name or a small
    object wherever it stands is left out; the box has the color of its class.

    Args:
        image: (H,W,3) uint8 RGB.
        boxes: (N,4) xyxy in pixels of `image`; they may reach outside.
        labels: (N,) indices into `classes`.
        classes: the names.
        scores: (N,) or None.

    Raises:
        ValueError: shapes do not agree, a label has no name, or a box is not finite.
    """
    _check_image(image)
    boxes, labels, scores = _check_boxes(boxes, labels, scores, len(classes))
    canvas = np.ascontiguousarray(image).copy()
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    ranks = -sides.prod(axis=1) if scores is None else scores
    order = np.argsort(ranks, kind='stable').tolist()
    thickness = max(1, round(min(image.shape[:2]) / 200))
    corners = {
        k: _draw_frame(canvas, boxes[k], class_color(labels[k]), thickness)
        for k in order
    }
    order.reverse()
    texts = [class_text(classes[labels[k]], labels[k]) for k in order]
    if scores is not None:
        texts = [
            f'{text} {scores[k]:.2f}' for k, text in zip(order, texts, strict=True)
        ]
    placed = tags.place(canvas.shape[:2], [corners[k] for k in order], texts)
    for k, tag in reversed(list(zip(order, placed, strict=True))):
        if tag is not None:
            tags.draw(canvas, tag, class_color(labels[k]))
    return canvas


def contact_sheet(
    images: Sequence[np.ndarray],
    columns: int,
    captions: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
    gap: int = 8,
    background: Color = WHITE,
) -> np.ndarray:
    """Lays images of any sizes on a sheet, row by row, each in mid-cell.

    A column is as wide as its widest image, a row as tall as its tallest. Captions go
    under the images, headings over the columns; long ones are shrunk to the width.
    Text beyond ASCII needs OpenCV 5, older ones put question marks.

    Raises:
        ValueError: no images, or not one caption an image, one heading a column.
    """
    _check_sheet(images, columns, captions, headings, gap)
    columns = min(columns, len(images))
    rows = [images[k : k + columns] for k in range(0, len(images), columns)]
    widths = [
        max(image.shape[1] for image in images[c::columns]) for c in range(columns)
    ]
    heights = [max(image.shape[0] for image in row) for row in rows]
    cap = max(MIN_TEXT_PIXELS, round(min(widths) / 28))
    head = 3 * cap if headings else 0
    foot = round(2.2 * cap) if captions else 0
    lefts = gap + np.cumsum([0, *(width + gap for width in widths)])
    tops = gap + head + np.cumsum([0, *(height + foot + gap for height in heights)])
    sheet = np.full((tops[-1], lefts[-1], 3), background, np.uint8)
    ink = ink_on(background)
    for k, image in enumerate(images):
        row, column = divmod(k, columns)
        height, width = image.shape[:2]
        x = lefts[column] + (widths[column] - width) // 2
        y = tops[row] + (heights[row] - height) // 2
        sheet[y : y + height, x : x + width] = image
        if captions:
            area = (lefts[column], tops[row] + heights[row], widths[column], foot)
            _write(sheet, captions[k], area, cap, ink)
    for column, heading in enumerate((headings or ())[:columns]):
        _write(
            sheet, heading, (lefts[column], gap, widths[column], head), 1.3 * cap, ink
        )
    return sheet


def detection_sheet(
    images: Sequence[np.ndarray],
    truths: Sequence[tuple],
    detections: Sequence[tuple],
    classes: Sequence[str],
    columns: int = 2,
    min_score: float = 0.3,
    min_side: int = 320,
) -> np.ndarray:
    """Pairs of images side by side: the annotated objects, the detected ones.

    Args:
        images: (H,W,3) uint8 RGB each.
        truths: (boxes, labels) for each image, in its pixels.
        detections: (boxes, labels, scores) for each image, in its pixels.
        classes: the names.
        columns: pairs in a row.
        min_score: detections below it are not drawn.
        min_side: smaller images are enlarged, see `scale_up`.

    Raises:
        ValueError: not one truth and one list of detections an image.
    """
    if not len(images) == len(truths) == len(detections):
        raise ValueError(
            'expected as many truths and detections as images, got '
            f'{len(truths)} and {len(detections)} for {len(images)}'
        )
    panels = []
    for image, (boxes, labels), found in zip(images, truths, detections, strict=True):
        large, scaled = scale_up(image, boxes, min_side)
        panels.append(draw_boxes(large, scaled, labels, classes))
        kept = np.asarray(found[2]) >= min_score
        boxes, labels, scores = (np.asarray(column)[kept] for column in found)
        large, scaled = scale_up(image, boxes, min_side)
        panels.append(draw_boxes(large, scaled, labels, classes, scores))
    headings = ('truth', 'detections') * columns
    return contact_sheet(panels, 2 * columns, headings=headings)


def write_image(path: str | pathlib.Path, image: np.ndarray) -> None:
    """Writes an image; the path's suffix says how. Makes the folder where needed.

    Raises:
        ValueError: the suffix is not .png, .jpg or .jpeg, or `image` is no image.
        OSError: the folder or file cannot be written.
    """
    _check_image(image)
    path = pathlib.Path(path)
    suffix = path.suffix.lower()
    if suffix not in ('.png', '.jpg', '.jpeg'):
        raise ValueError(
            f'expected a path that ends in .png, .jpg or .jpeg, got {path}'
        )
    # Not cv2.imwrite, which reports most failures by a return value only.
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f'OpenCV cannot encode a {image.shape} image as {suffix}')
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.tobytes())


def _draw_frame(canvas, box, color: Color, thickness: int) -> tuple[int, int, int, int]:
    """Draws the box's frame inside its edges; returns the pixels that it encloses."""
    height, width = canvas.shape[:2]
    # A frame just outside the image stays outside; far values would overflow in cv2.
    bounds = np.array([width, height, width, height]) + thickness
    x1, y1, x2, y2 = np.rint(np.clip(box, -thickness, bounds)).astype(int).tolist()
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    thin = (thickness + 1) // 2, min(x2 - x1, y2 - y1) // 10
    thickness = min(thickness, max(thin))
    for inset in range(thickness):
        if x2 - x1 < 2 * inset or y2 - y1 < 2 * inset:
            break
        first, last = (x1 + inset, y1 + inset), (x2 - inset, y2 - inset)
        cv2.rectangle(canvas, first, last, color, 1)
    return x1, y1, x2 + 1, y2 + 1


def _write(sheet, text: str, area: tuple[int, int, int, int], size: float, ink: Color):
    """Writes a line in the middle of an area of the sheet: left, top, width, height."""
    left, top, width, height = area
    line = fit(text, size, width)
    x = (width - line.width) // 2
    y = (height + line.ascent - line.descent) // 2
    part = sheet[top : top + height, left : left + width]
    part[:] = put(part.copy(), line, max(x, 0), y, ink)


def _check_image(image: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'expected an (H,W,3) uint8 image, got {image.shape} {image.dtype}'
        )


def _check_boxes(boxes, labels, scores, num_classes: int):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64).reshape(-1)
    if scores is not None:
        scores = np.asarray(scores, np.float64).reshape(-1)
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        counts = len(boxes), len(labels), None if scores is None else len(scores)
        raise ValueError(f'expected as many labels and scores as boxes, got {counts}')
    if not np.isfinite(boxes).all():
        raise ValueError('expected finite boxes, got NaN or infinity')
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'expected labels in 0..{num_classes - 1}, got {np.unique(labels)}'
        )
    return boxes, labels.tolist(), scores


def _check_sheet(images, columns: int, captions, headings, gap: int) -> None:
    if not len(images) or columns < 1 or gap < 0:
        raise ValueError(
            'expected images, columns >= 1 and gap >= 0, got '
            f'{len(images)} images, columns={columns}, gap={gap}'
        )
    for image in images:
        _check_image(image)
    for name, texts, count in (
        ('captions', captions, len(images)),
        ('headings', headings, columns),
    ):
        if texts is not None and len(texts) != count:
            raise ValueError(f'expected {count} {name}, got {len(texts)}')
