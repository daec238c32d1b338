"""Boxes drawn on images, and images written to files. All images are RGB uint8."""

import colorsys
import os
import pathlib
from collections.abc import Sequence

import cv2
import numpy as np

from atss_jax.drawing.text import Color, class_text, draw_tag, place_tags
from atss_jax.files.atomic import write_bytes

SUFFIXES = ('.png', '.jpg', '.jpeg')
_LONGEST_ENLARGED = 8192  # pixels

# The golden ratio spreads hues evenly, however many classes there are.
_HUE_STEP = (5**0.5 - 1) / 2
# Saturation and value of the colors, in turn.
_TONES = ((0.85, 1.0), (0.6, 0.95), (1.0, 0.75))
_NO_IDENTITY = (170, 170, 170)  # gray: no class or identity has this color


def class_color(label: int) -> Color:
    """The color of a class: always the same, and far from those of its neighbors."""
    saturation, value = _TONES[label % len(_TONES)]
    rgb = colorsys.hsv_to_rgb(label * _HUE_STEP % 1, saturation, value)
    return tuple(round(255 * channel) for channel in rgb)


def scale_up(
    image: np.ndarray, boxes: np.ndarray, min_side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Enlarges an image and its boxes until the shorter side has `min_side` pixels.

    Tags of readable size would hide most of a small image. An image that is large
    enough comes back as a copy of the same size. The longer side does not grow beyond
    `_LONGEST_ENLARGED` pixels: a strip of few rows stays one.
    """
    check_image(image)
    boxes = np.array(boxes, np.float32).reshape(-1, 4)
    height, width = image.shape[:2]
    largest = _LONGEST_ENLARGED / max(height, width)
    factor = max(1, min(min_side / min(height, width), largest))
    size = round(width * factor), round(height * factor)
    enlarged = cv2.resize(image, size, interpolation=cv2.INTER_CUBIC)
    ratio = np.array([size[0] / width, size[1] / height] * 2, np.float32)
    return enlarged, boxes * ratio


def scale_down(image: np.ndarray, max_side: int) -> np.ndarray:
    """Shrinks an image until its longer side has at most `max_side` pixels."""
    check_image(image)
    factor = min(1, max_side / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def draw_boxes(
    image: np.ndarray,
    boxes: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    scores: np.ndarray | None = None,
    track_ids: np.ndarray | None = None,
) -> np.ndarray:
    """Draws boxes with their class, and score if given, on a copy of an image.

    Lines and letters grow with the image, and are smaller where boxes are small or
    crowded. Boxes with the best scores are drawn last and lie on top; without scores,
    the small boxes do. Names stay inside the image. A name that would hide another
    name or a small object wherever it is put is left out; its box still has the color
    of the class.

    Args:
        image: (H,W,3) uint8 RGB.
        boxes: (N,4) xyxy in pixels of `image`; they may reach outside.
        labels: (N,) indices into `classes`.
        classes: the names.
        scores: (N,) or None.
        track_ids: (N,) identities in a video, which are then written and give the
            boxes their colors; a negative one stands for none, and is gray.

    Raises:
        ValueError: shapes do not agree, a label has no name, or a box is not finite.
    """
    check_image(image)
    boxes, labels, scores = _check_boxes(boxes, labels, scores, len(classes))
    canvas = np.ascontiguousarray(image).copy()
    sides = np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    ranks = -sides.prod(axis=1) if scores is None else scores
    order = np.argsort(ranks, kind='stable').tolist()
    thickness = max(1, round(min(image.shape[:2]) / 200))
    colors = _colors(labels, track_ids)
    frames = {k: _draw_frame(canvas, boxes[k], colors[k], thickness) for k in order}
    texts = {k: _text(k, labels, classes, scores, track_ids) for k in order}
    # The last one drawn lies on top and has the first choice of a place for its tag.
    order.reverse()
    tags = place_tags(
        canvas.shape[:2], [frames[k] for k in order], [texts[k] for k in order]
    )
    for k, tag in reversed(list(zip(order, tags, strict=True))):
        if tag is not None:
            draw_tag(canvas, tag, colors[k])
    return canvas


def _colors(labels, track_ids):
    if track_ids is None:
        return [class_color(label) for label in labels]
    return [class_color(k) if k >= 0 else _NO_IDENTITY for k in track_ids.tolist()]


def _text(k, labels, classes, scores, track_ids):
    """What the tag of a box says: `car #7 0.83`."""
    text = class_text(classes[labels[k]], labels[k])
    if track_ids is not None and track_ids[k] >= 0:
        text = f'{text} #{track_ids[k]}'
    return text if scores is None else f'{text} {scores[k]:.2f}'


def encode_image(image: np.ndarray, suffix: str, quality: int = 95) -> bytes:
    """The content of an image file.

    Args:
        image: (H,W,3) uint8 RGB.
        suffix: one of `SUFFIXES`, which says the format.
        quality: of a JPEG, 0 to 100.

    Raises:
        ValueError: `image` is not an image.
        OSError: OpenCV cannot encode it.
    """
    check_image(image)
    options = [] if suffix == '.png' else [cv2.IMWRITE_JPEG_QUALITY, quality]
    bgr = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
    # Not cv2.imwrite, which reports most failures by a return value only.
    done, data = cv2.imencode(suffix, bgr, options)
    if not done:
        raise OSError(f'OpenCV cannot encode a {image.shape} image as {suffix}')
    return data.tobytes()


def write_image(path: str | os.PathLike, image: np.ndarray) -> None:
    """Writes an image whole or not at all, in the format that the suffix says.

    Missing folders are made.

    Raises:
        ValueError: the suffix is not in `SUFFIXES`, or `image` is not an image.
        OSError: the folder or file cannot be written.
    """
    suffix = pathlib.Path(path).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f'expected a path that ends in .png, .jpg or .jpeg, got {path}'
        )
    write_bytes(path, encode_image(image, suffix))


def check_image(image: np.ndarray) -> None:
    """Checks shape and type of an image.

    Raises:
        ValueError: it is not (H,W,3) uint8.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(
            f'expected an (H,W,3) uint8 image, got {image.shape} {image.dtype}'
        )


def _draw_frame(canvas, box, color: Color, thickness: int) -> tuple[int, int, int, int]:
    """Draws the frame inside the edges of the box; returns the pixels it encloses."""
    height, width = canvas.shape[:2]
    # A frame just outside the image stays outside; far values would overflow in cv2.
    bounds = np.array([width, height, width, height]) + thickness
    x1, y1, x2, y2 = np.rint(np.clip(box, -thickness, bounds)).astype(int).tolist()
    x2, y2 = max(x2 - 1, x1), max(y2 - 1, y1)
    # Thinner in a small box, but never under half.
    thickness = min(thickness, max((thickness + 1) // 2, min(x2 - x1, y2 - y1) // 10))
    for inset in range(thickness):
        if x2 - x1 < 2 * inset or y2 - y1 < 2 * inset:
            break
        first, last = (x1 + inset, y1 + inset), (x2 - inset, y2 - inset)
        cv2.rectangle(canvas, first, last, color, 1)
    return x1, y1, x2 + 1, y2 + 1


def _check_boxes(boxes, labels, scores, num_classes: int):
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    labels = np.asarray(labels, np.int64).reshape(-1)
    if scores is not None:
        scores = np.asarray(scores, np.float64).reshape(-1)
    if len(labels) != len(boxes) or (scores is not None and len(scores) != len(boxes)):
        counts = len(boxes), len(labels), None if scores is None else len(scores)
        raise ValueError(
            'expected as many labels and scores as boxes, got (boxes, labels, scores) '
            f'{counts}'
        )
    if not np.isfinite(boxes).all():
        raise ValueError('expected finite boxes, got NaN or infinity')
    if len(labels) and not (labels.min() >= 0 and labels.max() < num_classes):
        raise ValueError(
            f'expected labels in 0..{num_classes - 1}, got {np.unique(labels)}'
        )
    return boxes, labels.tolist(), scores
