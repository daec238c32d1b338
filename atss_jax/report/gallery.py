"""The worst images of a report: inline JPEGs under boxes that a script switches."""

import base64
import html
from collections.abc import Callable, Sequence

import cv2
import numpy as np

from atss_jax.data.image_file import UNUSABLE
from atss_jax.report.analysis import Analysis
from atss_jax.report.errors import KINDS

_MOST = 24  # images: a page of some megabytes
_LONG_SIDE, _QUALITY = 800, 82


def gallery(
    analysis: Analysis,
    names: dict[int, str],
    read: Callable[[int], np.ndarray],
) -> str:
    """Controls and figures.

    Args:
        analysis: says which images are worst.
        names: what each image is called, by image id.
        read: (H,W,3) uint8 RGB of an image id. Images that are damaged are named in
            place of shown.
    """
    figures, unusable = [], []
    for image_id in analysis.worst:
        if len(figures) == _MOST:
            break
        try:
            image = read(image_id)
        except UNUSABLE:
            unusable.append(names[image_id])
            continue
        figures.append(_figure(analysis, image_id, names[image_id], image))
    if not figures and not unusable:
        return '<p>No image has an error.</p>'
    left_out = ''
    if unusable:
        listed = html.escape(', '.join(unusable))
        left_out = f'<p>Could not be read: {listed}</p>'
    return (
        f'<p>The {len(figures)} of {len(analysis.images):,} images with most errors'
        f': objects not found, and wrong detections by their score. Shown are '
        f'detections with a score of {analysis.min_score:g} or more. Dashed is the '
        f'truth, green where it was found, white where not.</p>{left_out}'
        f'{_controls(analysis.classes)}<div id="gallery">{"".join(figures)}</div>'
    )


def _controls(classes: Sequence[str]) -> str:
    options = ''.join(
        f'<option value="{label}">{html.escape(name)}</option>'
        for label, name in enumerate(classes)
    )
    kinds = ''.join(_switch('kind', kind) for kind in ('correct', *KINDS))
    return (
        '<form id="controls"><fieldset><legend>Show</legend>'
        f'{_switch("side", "truth")}{_switch("side", "detections")}'
        f'{_switch("side", "names")}</fieldset>'
        '<fieldset><legend>Class</legend><select id="class" aria-label="Class">'
        f'<option value="">all</option>{options}</select></fieldset>'
        f'<fieldset><legend>Kind</legend>{kinds}'
        '<button type="button" data-all="on">all</button>'
        '<button type="button" data-all="off">none</button></fieldset>'
        '<output id="shown" aria-live="polite"></output></form>'
    )


def _switch(name, value):
    mark = f'<i class="mark {value}"></i>' if value != 'names' else ''
    return (
        f'<label><input type="checkbox" name="{name}" value="{value}" checked>'
        f'{mark}{value}</label>'
    )


def _figure(analysis, image_id, name, pixels):
    image, diagnosis = analysis.images[image_id]
    height, width = pixels.shape[:2]
    states = np.select(
        [image.crowd, diagnosis.is_found, diagnosis.is_missed],
        ['crowd', 'found', 'missed'],
        'not found',
    )
    side = np.array([width, height])
    truth = zip(states, image.labels, image.boxes.reshape(-1, 2, 2), strict=True)
    boxes = [
        _box('truth', kind, label, analysis.classes[label], box / side)
        for kind, label, box in truth
    ]
    # The best last, on top of the others.
    for row in reversed(range(len(image.scores))):
        label = image.found_labels[row]
        text = f'{analysis.classes[label]} {image.scores[row]:.2f}'
        box = image.found_boxes[row].reshape(2, 2) / side
        boxes.append(_box('detections', diagnosis.kinds[row], label, text, box))
    caption = html.escape(name)
    return (
        f'<figure><div class="image" style="--ratio:{width / height:.3f}">'
        f'<img alt="{caption}" width="{width}" height="{height}" '
        f'src="{_data_url(pixels)}">{"".join(boxes)}</div>'
        f'<figcaption><span>{caption}</span> '
        f'<span>{_tally(states, diagnosis)}</span>'
        '<button type="button" class="enlarge" aria-pressed="false">enlarge</button>'
        '</figcaption></figure>'
    )


def _box(side, kind, label, text, corners):
    """A box over the image; corners (2,2) are x, y shares of its sides."""
    (x1, y1), (x2, y2) = np.clip(corners, 0, 1) * 100
    title = html.escape(f'{side}: {text}, {kind}')
    # Where a name would leave the image on the right, it grows to the left.
    edge = ' at-right' if x1 > 75 else ''
    return (
        f'<div class="box {side} {kind.replace(" ", "-")}{edge}" data-side="{side}" '
        f'data-kind="{kind}" data-label="{label}" title="{title}" '
        f'style="left:{x1:.2f}%;top:{y1:.2f}%;width:{x2 - x1:.2f}%;'
        f'height:{y2 - y1:.2f}%">'
        f'<span>{html.escape(text)}</span></div>'
    )


def _tally(states, diagnosis):
    counts = {kind: int((diagnosis.kinds == kind).sum()) for kind in KINDS}
    counts['missed'] = int((states == 'missed').sum())
    parts = [f'{count} {kind}' for kind, count in counts.items() if count]
    objects = int((states != 'crowd').sum())
    unfound = int(np.isin(states, ('missed', 'not found')).sum())
    return f'{objects} objects, {unfound} not found: {", ".join(parts) or "no error"}'


def _data_url(image):
    factor = min(1, _LONG_SIDE / max(image.shape[:2]))
    size = [max(1, round(side * factor)) for side in image.shape[1::-1]]
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    done, data = cv2.imencode('.jpg', cv2.cvtColor(small, cv2.COLOR_RGB2BGR), options)
    if not done:
        raise OSError(f'OpenCV cannot encode a {small.shape} image as JPEG')
    return f'data:image/jpeg;base64,{base64.b64encode(data).decode()}'
