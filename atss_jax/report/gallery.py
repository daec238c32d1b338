"""The worst images of a report: inline JPEGs under boxes that a script switches."""

import base64
import html
from collections.abc import Callable, Sequence

import numpy as np

from atss_jax.data.image_file import UNUSABLE
from atss_jax.drawing.boxes import encode_image, scale_down
from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.report.analysis import Analysis
from atss_jax.report.errors import KINDS, Diagnosis

_MAX_IMAGES = 24  # so that a page has some megabytes at most
_LONG_SIDE, _QUALITY = 800, 82
# What the page calls the two kinds of boxes, by their `data-side`.
_SIDE_NAMES = {'truth': 'ground truth', 'detections': 'detections'}


def gallery(
    analysis: Analysis,
    names: dict[int, str],
    read: Callable[[int], np.ndarray],
) -> str:
    """Controls and figures.

    Args:
        analysis: says which images are worst.
        names: what each image is called, by image id.
        read: (H,W,3) uint8 RGB of an image id. Damaged images are named instead of
            shown.
    """
    figures, unreadable = [], []
    for image_id in analysis.worst:
        if len(figures) == _MAX_IMAGES:
            break
        try:
            pixels = read(image_id)
        except UNUSABLE:
            unreadable.append(names[image_id])
            continue
        image, diagnosis = analysis.images[image_id]
        figures.append(
            _figure(image, diagnosis, analysis.classes, names[image_id], pixels)
        )
    if not figures and not unreadable:
        return '<p>No image has an error.</p>'
    note = ''
    if unreadable:
        note = f'<p>Could not be read: {html.escape(", ".join(unreadable))}</p>'
    return (
        f'<p>The {len(figures)} of {len(analysis.images):,} images with most errors'
        f': objects not found, and wrong detections by their score. Shown are '
        f'detections with a score of {analysis.min_score:g} or more. Dashed boxes are '
        'ground truth, green where the object was detected, white where it was missed.'
        f'</p>{note}'
        f'{_controls(analysis.classes)}<div id="gallery">{"".join(figures)}</div>'
    )


def _controls(classes: Sequence[str]) -> str:
    options = ''.join(
        f'<option value="{label}">{html.escape(name)}</option>'
        for label, name in enumerate(classes)
    )
    sides = ''.join(_switch('side', side, name) for side, name in _SIDE_NAMES.items())
    kinds = ''.join(_switch('kind', kind, kind) for kind in ('correct', *KINDS))
    return (
        '<form id="controls"><fieldset><legend>Show</legend>'
        f'{sides}<label><input type="checkbox" name="side" value="names" checked>names'
        '</label></fieldset>'
        '<fieldset><legend>Class</legend><select id="class" aria-label="Class">'
        f'<option value="">all</option>{options}</select></fieldset>'
        f'<fieldset><legend>Kind</legend>{kinds}'
        '<button type="button" data-all="on">all</button>'
        '<button type="button" data-all="off">none</button></fieldset>'
        '<output id="shown" aria-live="polite"></output></form>'
    )


def _switch(group: str, value: str, name: str) -> str:
    return (
        f'<label><input type="checkbox" name="{group}" value="{value}" checked>'
        f'<i class="mark {value}"></i>{name}</label>'
    )


def _figure(
    image: EvaluatedImage,
    diagnosis: Diagnosis,
    classes: Sequence[str],
    name: str,
    pixels: np.ndarray,
) -> str:
    height, width = pixels.shape[:2]
    states = np.select(
        [image.is_crowd, diagnosis.is_found, diagnosis.is_missed],
        ['crowd', 'found', 'missed'],
        'not found',
    )
    size = np.array([width, height])
    boxes = [
        box('truth', state, label, classes[label], corners / size)
        for state, label, corners in zip(
            states, image.gt_labels, image.gt_boxes.reshape(-1, 2, 2), strict=True
        )
    ]
    # The best last, on top of the others.
    for row in reversed(range(len(image.scores))):
        label = image.labels[row]
        text = f'{classes[label]} {image.scores[row]:.2f}'
        corners = image.boxes[row].reshape(2, 2) / size
        boxes.append(box('detections', diagnosis.kinds[row], label, text, corners))
    caption = html.escape(name)
    return (
        f'<figure><div class="image" style="--ratio:{width / height:.3f}">'
        f'<img alt="{caption}" width="{width}" height="{height}" '
        f'src="{data_url(pixels)}">{"".join(boxes)}</div>'
        f'<figcaption><span>{caption}</span> '
        f'<span>{_tally(states, diagnosis)}</span>'
        '<button type="button" class="enlarge" aria-pressed="false">enlarge</button>'
        '</figcaption></figure>'
    )


def box(side: str, kind: str, label: int, text: str, corners: np.ndarray) -> str:
    """A box over the image; corners (2,2) are x and y as shares of its sides."""
    (x1, y1), (x2, y2) = np.clip(corners, 0, 1) * 100
    title = html.escape(f'{_SIDE_NAMES[side]}: {text}, {kind}')
    # A name that would leave the image on the right grows to the left instead.
    edge = ' at-right' if x1 > 75 else ''
    return (
        f'<div class="box {side} {kind.replace(" ", "-")}{edge}" data-side="{side}" '
        f'data-kind="{kind}" data-label="{label}" title="{title}" '
        f'style="left:{x1:.2f}%;top:{y1:.2f}%;width:{x2 - x1:.2f}%;'
        f'height:{y2 - y1:.2f}%">'
        f'<span>{html.escape(text)}</span></div>'
    )


def _tally(states: np.ndarray, diagnosis: Diagnosis) -> str:
    counts = {kind: int((diagnosis.kinds == kind).sum()) for kind in KINDS}
    counts['missed'] = int((states == 'missed').sum())
    errors = [f'{count} {kind}' for kind, count in counts.items() if count]
    objects = int((states != 'crowd').sum())
    not_found = int(np.isin(states, ('missed', 'not found')).sum())
    return (
        f'{objects} objects, {not_found} not found: {", ".join(errors) or "no error"}'
    )


def data_url(pixels: np.ndarray) -> str:
    """The address of an inline JPEG of an image, made smaller if it is large."""
    data = encode_image(scale_down(pixels, _LONG_SIDE), '.jpg', _QUALITY)
    return f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'
