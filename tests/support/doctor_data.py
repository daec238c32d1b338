"""Suggestions of all kinds about small images, and a page of them."""

import json
import pathlib
from collections.abc import Sequence

import numpy as np

from atss_jax.evaluation.evaluated_image import evaluated_images
from atss_jax.report.doctor_page import Diagnosed, write_doctor_page
from atss_jax.review.corrections import read_annotations
from atss_jax.review.ranking import Suggestion
from atss_jax.structures import Detections
from tests.support.report_data import open_data
from tests.support.small_run import write_coco

CORRECTED = 'val_corrected.json'
CORRECTIONS = 'val_corrections.json'
KINDS = ('missing', 'class', 'loose', 'twice')
# What JavaScript cannot hold, and what would end an element of HTML.
UNKNOWN = {'big': 2**53 + 1, 'small': 5e-324, 'text': '</script><b>\\u003c \u2028 ß'}


def no_detections(records) -> dict[int, Detections]:
    """No detection in any image, by image id."""
    nothing = Detections(np.zeros((0, 4)), np.zeros(0), np.zeros(0, int), np.zeros(0))
    return {int(id_): nothing for id_ in records.image_ids}


def some_suggestions(ground_truth) -> list[Suggestion]:
    """One of each kind, about the first annotations; boxes have many digits."""
    first, second, third = (
        row for row in ground_truth['annotations'][:4] if row['id'] != 3
    )

    def corners(row):
        x, y, width, height = row['bbox']
        return (x + 1 / 3, y + 1 / 3, x + width, y + height)

    def suggestion(kind, row, label, **fields):
        place = (row['image_id'], row['id'] if kind != 'missing' else None)
        return Suggestion(
            kind, 0.9, 0.5, *place, label, corners(row), 0.8, 0.6, **fields
        )

    return [
        suggestion('missing', first, 2),
        suggestion('class', first, 1, annotated_score=0.05),
        suggestion('loose', second, 0),
        suggestion('twice', third, 0, twin_id=third['id'] + 1),
    ]


def written_page(
    folder: pathlib.Path, is_embedded: bool = True, kinds: Sequence[str] = KINDS
) -> tuple[pathlib.Path, Diagnosed]:
    """Writes data and a page about them to a folder; path and what is on the page.

    Args:
        folder: for both.
        is_embedded: whether the page has the annotations in it.
        kinds: of the suggestions.
    """
    ann_file = folder / 'val.json'
    write_coco(folder, 'val', 9, seed=3)
    content = json.loads(ann_file.read_text())
    for row in (content, *content['annotations'], content['images'][0]):
        row['unknown'] = UNKNOWN
    ann_file.write_text(json.dumps(content))
    source = open_data(folder)
    apply = f'atss doctor --apply={CORRECTIONS} --out=corrected.json'
    ground_truth = source.ground_truth()
    images = evaluated_images(
        ground_truth, no_detections(source.records), source.category_ids
    )
    diagnosed = Diagnosed(
        'a <title>',
        source,
        images,
        [each for each in some_suggestions(ground_truth) if each.kind in kinds],
        read_annotations(ann_file),
        None if is_embedded else apply,
        CORRECTED if is_embedded else CORRECTIONS,
    )
    path = folder / 'doctor.html'
    assert write_doctor_page(path, diagnosed) == []
    return path, diagnosed
