"""The results of `atss predict`: collected, drawn, and written as numbers."""

import csv
import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from atss_jax.drawing.boxes import draw_boxes, scale_down, scale_up
from atss_jax.drawing.traces import Traces
from atss_jax.evaluation.coco_metric import coco_results
from atss_jax.files.atomic import replacing, write_json
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import Ids, InputFile
from atss_jax.inference.tracks import NO_TRACK

_SMALLEST_SIDE = 320  # smaller images are enlarged: names would hide them
_LONGEST_SIDE = 65_500  # of a JPEG file, for the library that writes it


@dataclasses.dataclass(frozen=True)
class Options:
    """How `atss predict` detects, and what it writes.

    Attributes:
        score_thr: detections with lower scores are left out.
        classes: names of the classes to keep; None: all.
        draw: also write images and videos with the detections drawn.
        ann_file: COCO file whose image ids and category ids are written; None: both
            are counted from 1.
        tiles: side of the tiles that larger images are also shown in; None: in none.
        overlap: of neighboring tiles, as a share of their side.
        track: give the objects of videos identities.
        track_buffer: seconds for which an object that was lost is remembered.
    """

    score_thr: float = 0.3
    classes: tuple[str, ...] | None = None
    draw: bool = True
    ann_file: str | None = None
    tiles: int | None = None
    overlap: float = 0.2
    track: bool = False
    track_buffer: float = 1.0


@dataclasses.dataclass
class Outcome:
    """What `atss predict` did.

    Attributes:
        ids: ids of images and categories.
        images: COCO's list of images; each frame of a video is an entry.
        detections: detections of each image, by its id.
        unreadable: a line on each file that could not be read, or not to its end: name
            and reason.
        video_frames, video_seconds: number of frames in videos, and the time that they
            took.
    """

    ids: Ids
    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    detections: dict[int, ImageDetections] = dataclasses.field(default_factory=dict)
    unreadable: list[str] = dataclasses.field(default_factory=list)
    video_frames: int = 0
    video_seconds: float = 0.0

    def add(self, detections: ImageDetections, item: InputFile, **extra: Any) -> None:
        """Adds an image and its detections; `extra` are more fields of its entry."""
        image_id = len(self.images) + 1
        if self.ids.images is not None:
            image_id = self.ids.images[item.path]
        height, width = detections.size
        self.images.append(
            {'id': image_id, 'file_name': str(item.path), **extra}
            | {'height': height, 'width': width}
        )
        self.detections[image_id] = detections


def draw_detections(
    image: np.ndarray, detections: ImageDetections, traces: Traces | None = None
) -> np.ndarray:
    """The image with boxes, names and scores; a small one is enlarged.

    One that JPEG files have no place for is reduced.

    Args:
        image: (H,W,3) uint8 RGB.
        detections: in the image.
        traces: of the frames before this one, which is added to them and drawn.
    """
    enlarged, boxes = scale_up(image, detections.boxes, _SMALLEST_SIDE)
    track_ids = detections.track_ids
    if traces is not None:
        traces.add(boxes, track_ids)
        traces.draw(enlarged)
    names = detections.labels, detections.classes, detections.scores
    drawn = draw_boxes(enlarged, boxes, *names, track_ids)
    is_too_long = max(drawn.shape) > _LONGEST_SIDE
    return scale_down(drawn, _LONGEST_SIDE) if is_too_long else drawn


# Files of numbers --------------------------------------------------------------------


def write_numbers(
    folder: pathlib.Path, outcome: Outcome, classes: Sequence[str], tracked: bool
) -> None:
    """Writes `detections.json`, `pictures.json` and `detections.csv`.

    Args:
        folder: where to.
        outcome: the detections.
        classes: name of each label.
        tracked: whether objects have identities, which are then written too.
    """
    category_ids = outcome.ids.category_ids
    results = [
        result
        for image_id, detections in outcome.detections.items()
        for result in _results(image_id, detections, category_ids)
    ]
    categories = [
        {'id': id_, 'name': name}
        for id_, name in zip(category_ids, classes, strict=True)
    ]
    write_json(folder / 'detections.json', results, indent=1)
    images = {'images': outcome.images, 'categories': categories}
    write_json(folder / 'pictures.json', images, indent=1)
    with (
        replacing(folder / 'detections.csv') as temporary,
        temporary.open('w', newline='', encoding='utf-8') as file,
    ):
        csv.writer(file).writerows(_table(outcome, tracked))


def _results(image_id, detections, category_ids):
    arrays = detections.boxes, detections.scores, detections.labels
    results = coco_results(image_id, *arrays, category_ids)
    if detections.track_ids is not None:
        for result, track_id in zip(results, detections.track_ids, strict=True):
            result['track_id'] = None if track_id == NO_TRACK else int(track_id)
    return results


def _table(outcome, tracked):
    """Rows of text, first the names of the columns."""
    identity = ('track_id',) if tracked else ()
    yield 'file', 'frame', *identity, 'class', 'score', 'x1', 'y1', 'x2', 'y2'
    for image in outcome.images:
        detections = outcome.detections[image['id']]
        source = image['file_name'], image.get('frame', '')
        for row, name in enumerate(detections.names):
            if tracked:
                track_id = detections.track_ids[row]
                identity = ('' if track_id == NO_TRACK else track_id,)
            corners = [f'{side:.2f}' for side in detections.boxes[row]]
            score = f'{detections.scores[row]:.4f}'
            yield *source, *identity, name, score, *corners
