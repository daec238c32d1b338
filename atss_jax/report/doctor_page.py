"""The page on which one accepts or rejects suggestions about annotations by key."""

import dataclasses
import hashlib
import html
import json
import os
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from atss_jax.data.image_file import UNUSABLE
from atss_jax.data.records import Source
from atss_jax.evaluation.evaluated_image import EvaluatedImage
from atss_jax.files.atomic import write_text
from atss_jax.report.gallery import box, data_url
from atss_jax.report.page import assemble
from atss_jax.review.corrections import (
    VERSION,
    AnnotationFile,
    Edit,
    corrections_of,
    edits_of,
    json_lines,
)
from atss_jax.review.evidence import KINDS
from atss_jax.review.ranking import Suggestion

_SURROUNDINGS = 2.5  # sides of a crop, in sides of what it is about
_LEAST_SIDE = 96  # pixels of a crop
_TITLES = {
    'missing': 'An object of {suggested} has no annotation',
    'class': 'Annotated as {annotated}, looks like {suggested}',
    'loose': 'The box of {suggested} does not fit',
    'twice': '{suggested} is annotated twice',
}
_EVIDENCE = {
    'missing': 'A detection of {suggested} scores {score:.2f}. The annotation that it '
    'overlaps most has an IoU of {iou:.2f} with it.',
    'class': '{suggested} scores {score:.2f} at this place, {annotated} '
    '{annotated_score:.2f}. The detection and the annotation have an IoU of {iou:.2f}.',
    'loose': 'A detection of {suggested} scores {score:.2f} and has an IoU of only '
    '{iou:.2f} with the annotated box.',
    'twice': 'Two annotations of {suggested} have an IoU of {iou:.2f}. Next to the '
    'detection of the one that stays, one of score {score:.2f} means the other.',
}
_EFFECTS = {
    'missing': 'Accept: adds the blue box as {suggested}.',
    'class': 'Accept: the class becomes {suggested}; the box stays.',
    'loose': 'Accept: the box becomes the blue one.',
    'twice': 'Accept: removes the red box, annotation {annotation_id}; the blue one, '
    'annotation {twin_id}, stays.',
}
_ESCAPED_LESS = '\\u003c'  # in the strings of JSON
_KEYS = {
    'k': 'Previous',
    'j': 'Next',
    'a': 'Accept',
    'r': 'Reject',
    'u': 'Undo',
    's': 'Save',
}


@dataclasses.dataclass(frozen=True)
class Diagnosed:
    """What the page is about.

    Attributes:
        title: what was reviewed.
        source: the images.
        images: their annotations and detections.
        suggestions: those to show, the most probable first.
        annotations: the COCO file that is to be corrected.
        apply_command: the command that applies the corrections that the page saves;
            None: the page has the annotations in it, and saves them corrected.
        file_name: under which the page saves.
    """

    title: str
    source: Source
    images: Sequence[EvaluatedImage]
    suggestions: Sequence[Suggestion]
    annotations: AnnotationFile
    apply_command: str | None
    file_name: str


def write_doctor_page(path: str | os.PathLike, diagnosed: Diagnosed) -> list[str]:
    """Writes the page as one HTML file that needs nothing else.

    Returns:
        The names of images that could not be read, whose suggestions are left out.
    """
    figures, unreadable = _figures(diagnosed)
    shown = [suggestion for suggestion, _ in figures]
    contents = {
        'Review': _review(diagnosed, figures),
        'All suggestions': _list(diagnosed, shown),
        'About': _about(diagnosed, shown),
    }
    annotations = sum(len(image.annotation_ids) for image in diagnosed.images)
    counts = (
        f'{len(shown):,} suggestions about {annotations:,} annotations of '
        f'{len(diagnosed.images):,} images'
    )
    text = assemble(f'Label doctor: {diagnosed.title}', counts, contents, 'doctor')
    write_text(path, text)
    return unreadable


# One suggestion -----------------------------------------------------------------------


def _figures(diagnosed):
    """Pairs of a suggestion and its figure, and the names of unreadable images."""
    records = diagnosed.source.records
    row_of = {int(id_): row for row, id_ in enumerate(records.image_ids)}
    images = {image.image_id: image for image in diagnosed.images}
    figures, unreadable = [], []
    for suggestion in diagnosed.suggestions:
        record = records[row_of[suggestion.image_id]]
        name = pathlib.Path(record.file_name).name or f'image {record.image_id}'
        try:
            pixels = diagnosed.source.read_image(record)
        except UNUSABLE:
            unreadable.append(name)
            continue
        image = images[suggestion.image_id]
        classes = diagnosed.source.classes
        figure = _figure(len(figures), suggestion, image, classes, (name, pixels))
        figures.append((suggestion, figure))
    return figures, sorted(set(unreadable))


def _figure(
    number: int,
    suggestion: Suggestion,
    image: EvaluatedImage,
    classes: Sequence[str],
    named_pixels: tuple[str, np.ndarray],
) -> str:
    """The surroundings of a suggestion, and what it says."""
    name, pixels = named_pixels
    words = _words(suggestion, image, classes)
    left, top, right, bottom = crop_around(_subject(suggestion, image), pixels.shape)
    cropped = pixels[top:bottom, left:right]
    size = np.array([right - left, bottom - top])
    boxes = _boxes(suggestion, image, classes, np.array([left, top]), size)
    ratio = size[0] / size[1]
    title = html.escape(_TITLES[suggestion.kind].format_map(words))
    return (
        f'<figure class="suspect" data-kind="{suggestion.kind}" data-state="">'
        f'<div class="image" style="--ratio:{ratio:.3f}">'
        f'<img alt="{title}" width="{size[0]}" height="{size[1]}" '
        f'src="{data_url(np.ascontiguousarray(cropped))}">{boxes}</div>'
        f'<figcaption><h3>{number + 1}. {title}</h3>'
        f'<p>{html.escape(_EVIDENCE[suggestion.kind].format_map(words))}</p>'
        f'<p>{html.escape(_EFFECTS[suggestion.kind].format_map(words))}</p>'
        f'<p>Probability {suggestion.probability:.2f}. '
        '<span class="state">undecided</span></p>'
        f'<p class="where">{html.escape(name)}, image id {suggestion.image_id}</p>'
        '</figcaption></figure>'
    )


def _words(suggestion, image, classes) -> Mapping[str, object]:
    """What the sentences are filled with."""
    row = _row(image, suggestion.annotation_id)
    annotated = None if row is None else classes[image.gt_labels[row]]
    named = {'suggested': classes[suggestion.label], 'annotated': annotated}
    return vars(suggestion) | named


def _row(image, annotation_id):
    """The row of an annotation; None for None."""
    if annotation_id is None:
        return None
    return int(np.flatnonzero(image.annotation_ids == annotation_id)[0])


def _subject(suggestion, image):
    """xyxy around the boxes that a suggestion is about."""
    boxes = [np.array(suggestion.box)]
    row = _row(image, suggestion.annotation_id)
    if row is not None:
        boxes.append(image.gt_boxes[row])
    return np.concatenate([np.min(boxes, axis=0)[:2], np.max(boxes, axis=0)[2:]])


def crop_around(subject: np.ndarray, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Left, top, right and bottom of the part of an image around a box.

    Args:
        subject: xyxy.
        shape: height and width of the image first.
    """
    height, width = shape[:2]
    center, sides = (subject[:2] + subject[2:]) / 2, subject[2:] - subject[:2]
    half = np.maximum(np.maximum(sides * _SURROUNDINGS, sides.max()), _LEAST_SIDE) / 2
    left, top = np.clip(np.floor(center - half), 0, [width - 1, height - 1])
    right, bottom = np.clip(
        np.ceil(center + half), [left + 1, top + 1], [width, height]
    )
    return int(left), int(top), int(right), int(bottom)


def _boxes(suggestion, image, classes, origin, size):
    """All annotations in the crop; red the one in question, blue what is suggested."""
    drawn = []
    names = [classes[label] if label >= 0 else 'other' for label in image.gt_labels]
    for row, corners in enumerate(image.gt_boxes.reshape(-1, 2, 2)):
        if image.annotation_ids[row] in (suggestion.annotation_id, suggestion.twin_id):
            continue
        share = (corners - origin) / size
        if (share[1] > 0).all() and (share[0] < 1).all():
            state = 'crowd' if image.is_crowd[row] else 'found'
            drawn.append(box('truth', state, image.gt_labels[row], names[row], share))
    row = _row(image, suggestion.annotation_id)
    if row is not None:
        share = (image.gt_boxes[row].reshape(2, 2) - origin) / size
        label = image.gt_labels[row]
        drawn.append(box('truth', 'background', label, names[row], share))
    if suggestion.kind != 'class':
        share = (np.array(suggestion.box).reshape(2, 2) - origin) / size
        name, label = classes[suggestion.label], suggestion.label
        drawn.append(box('detections', 'correct', label, name, share))
    return ''.join(drawn)


# The sections -------------------------------------------------------------------------


def _review(diagnosed, figures):
    suspects = ''.join(text for _, text in figures) or '<p>Nothing looks wrong.</p>'
    shown = [suggestion for suggestion, _ in figures]
    return (
        f'{_controls()}<div id="suspects">{suspects}</div>{_saved(diagnosed)}'
        f'{_data(diagnosed, shown)}'
    )


def _saved(diagnosed):
    """What is said once the page has saved a file."""
    if diagnosed.apply_command is None:
        advice = 'It has all annotations, with what is accepted.'
    else:
        command = html.escape(diagnosed.apply_command)
        advice = f'To write the corrected annotations: <code>{command}</code>'
    return (
        '<p id="saved" hidden aria-live="polite">Saved '
        f'{html.escape(diagnosed.file_name)} where the browser keeps downloads. '
        f'{advice}</p>'
    )


def _controls():
    buttons = ''.join(
        f'<button type="button" data-key="{key}" aria-keyshortcuts="{key}">'
        f'{name}<kbd>{key}</kbd></button>'
        for key, name in _KEYS.items()
    )
    options = ''.join(f'<option value="{kind}">{kind}</option>' for kind in KINDS)
    return (
        f'<div id="doctor" role="toolbar" aria-label="Decide">{buttons}'
        '<label>Kind <select id="kind" aria-label="Kind"><option value="">all</option>'
        f'{options}</select></label>'
        '<output id="progress" aria-live="polite"></output></div>'
    )


def _data(diagnosed, shown):
    """The file that the page saves, and what each suggestion changes in it.

    JavaScript cannot hold all numbers of JSON exactly: records are text to the page,
    which it never parses.
    """
    lines, edits = _lines_and_edits(diagnosed, shown)
    data = {
        'edits': [
            {'index': index, 'record': None if record is None else json.dumps(record)}
            for index, record in edits
        ],
        'file': diagnosed.file_name,
    }
    identity = diagnosed.annotations.sha256 + json.dumps(data)
    data['key'] = f'atss doctor {hashlib.sha256(identity.encode()).hexdigest()}'
    elements = (
        ('application/json', 'edits', json.dumps(data)),
        ('text/plain', 'lines', '\n'.join(lines)),
    )
    # `<` would end the element in a name such as `</script>`.
    return ''.join(
        f'<script type="{type_}" id="{id_}">{text.replace("<", _ESCAPED_LESS)}</script>'
        for type_, id_, text in elements
    )


def _lines_and_edits(diagnosed, shown):
    """The lines of a JSON text that ends in an open list, and the edits of the list.

    It is the list of annotations, or an empty one to which corrections are added.
    """
    path, sha256, _, content = diagnosed.annotations
    corrections = corrections_of(
        shown, diagnosed.source.category_ids, content.get('annotations') or []
    )
    edits = edits_of(content, corrections)
    if diagnosed.apply_command is None:
        return json_lines(content), edits
    head = {'atss_doctor': VERSION, 'ann_file': path, 'sha256': sha256}
    line = f'{json.dumps(head)[:-1]}, "corrections": ['
    return [line], [Edit(None, correction) for correction in corrections]


def _list(diagnosed, shown):
    images = {image.image_id: image for image in diagnosed.images}
    entries = []
    for number, each in enumerate(shown, 1):
        words = _words(each, images[each.image_id], diagnosed.source.classes)
        title = html.escape(_TITLES[each.kind].format_map(words))
        entries.append(
            f'<li data-state=""><button type="button">{number}. {title} '
            f'<small>({each.probability:.2f}, <span class="decision">undecided</span>)'
            '</small></button></li>'
        )
    return f'<ol id="list">{"".join(entries)}</ol>'


def _about(diagnosed, shown):
    counts = ', '.join(
        f'{sum(each.kind == kind for each in shown):,} {kind}' for kind in KINDS
    )
    if diagnosed.apply_command is None:
        saved = 'a copy of them with what is accepted is saved'
    else:
        saved = (
            'what is accepted is saved as a file of corrections, from which a command '
            'writes a corrected copy'
        )
    return (
        f'<p>Shown are {counts}. Annotations are dashed, red the one in question; blue '
        'is what is suggested, green are the other annotations. The probability takes '
        'it that one annotation in twenty has a fault of this kind.</p>'
        f'<p>The annotations: <code>{html.escape(diagnosed.annotations.path)}</code>. '
        f'They are not changed: {saved}.</p>'
    )
