"""What `atss predict` does: detects objects in files, writes images and numbers."""

import csv
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np
import tqdm

from atss_jax.commands.command_line import counted
from atss_jax.config.tree import closest
from atss_jax.data.image_file import UNUSABLE, BadImage, read
from atss_jax.drawing.boxes import draw_boxes, scale_up, write_image
from atss_jax.evaluation.coco_metric import coco_results
from atss_jax.files.atomic import check_writable, replacing, write_json
from atss_jax.files.read_ahead import map_ahead
from atss_jax.inference.detector import Detector
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import Ids, InputFile, choose_ids, find_files

_SMALLEST_SIDE = 320  # smaller images are enlarged: names would hide them


@dataclasses.dataclass(frozen=True)
class Options:
    """How `predict_files` detects, and what it writes.

    Attributes:
        score_thr: detections with lower scores are left out.
        classes: names of the classes to keep; None: all.
        draw: also write images and videos with the detections drawn.
        ann_file: COCO file whose image ids and category ids are written; None: both
            are counted from 1.
        tiles: side of the tiles that larger images are also shown in; None: in none.
        overlap: of neighboring tiles, as a share of their side.
    """

    score_thr: float = 0.3
    classes: tuple[str, ...] | None = None
    draw: bool = True
    ann_file: str | None = None
    tiles: int | None = None
    overlap: float = 0.2


@dataclasses.dataclass
class Outcome:
    """What `predict_files` did.

    Attributes:
        ids: ids of images and categories.
        images: COCO's list of images; each frame of a video is an entry.
        detections: detections of each image, by its id.
        unreadable: a line on each file that could not be read: name and reason.
    """

    ids: Ids
    images: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    detections: dict[int, ImageDetections] = dataclasses.field(default_factory=dict)
    unreadable: list[str] = dataclasses.field(default_factory=list)

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


def predict_files(
    detector: Detector, items: Sequence[InputFile], out: str, options: Options
) -> Outcome:
    """Writes `detections.json`, `detections.csv`, `pictures.json` and drawn images.

    A file that cannot be read is named on stderr and skipped.

    Args:
        detector: the detector.
        items: images and videos.
        out: folder to write to; made if it does not exist.
        options: what to write.

    Raises:
        ValueError: a class that the detector does not know, a file that
            `options.ann_file` does not list, or no file can be read.
        OSError: nothing can be written to `out`.
    """
    labels = choose_labels(detector.classes, options.classes)
    ids = choose_ids(detector.classes, items, options.ann_file)
    folder, outcome = pathlib.Path(out), Outcome(ids)
    folder.mkdir(parents=True, exist_ok=True)
    shown = functools.partial(
        ImageDetections.keep, score_thr=options.score_thr, labels=labels
    )
    images = [item for item in items if not item.is_video]
    stream = functools.partial(
        detector.stream, tiles=options.tiles, overlap=options.overlap
    )
    _predict_images(stream, images, folder, options.draw, shown, outcome)
    for item in items:
        if item.is_video:
            _predict_video(stream, item, folder, options.draw, shown, outcome)
    if not outcome.images:
        raise ValueError(f'none of {len(items)} files can be read')
    _write(folder, outcome, detector.classes)
    return outcome


def predict_and_report(
    source: str,
    inputs: Sequence[str],
    out: str,
    options: Options,
    loading: Mapping[str, Any],
) -> int:
    """Finds the files, loads the detector, detects, and prints a summary.

    Args:
        source: workdir or file of weights.
        inputs: files, folders and patterns.
        out: folder to write to.
        options: what is written.
        loading: other arguments of `Detector.load`.

    Returns:
        Exit status: 0, or 3 if some files could not be read.
    """
    items = find_files(inputs, out, print)
    check_writable(out)  # before the detector is loaded and has detected everything
    detector = Detector.load(source, **loading)
    if loading['tta']:
        mirrored = ', each also mirrored' if detector.flip else ''
        print(f'test-time augmentation: scales {detector.img_scales}{mirrored}')
    outcome = predict_files(detector, items, out, options)
    images = counted(len(outcome.images), 'image')
    objects = counted(sum(map(len, outcome.detections.values())), 'object')
    print(f'{images}, {objects} with scores of at least {options.score_thr:g}: {out}')
    if outcome.unreadable:
        print(f'{len(outcome.unreadable)} of {len(items)} files could not be read')
    return 3 if outcome.unreadable else 0


def choose_labels(
    classes: Sequence[str], wanted: Sequence[str] | None
) -> list[int] | None:
    """Labels of the classes with these names; None: all.

    Raises:
        ValueError: there is no such class.
    """
    for name in wanted or ():
        if name not in classes:
            raise ValueError(
                f"no class '{name}'{closest(name, classes)}; there are "
                f'{", ".join(classes)}'
            )
    return None if wanted is None else [classes.index(name) for name in wanted]


def _bar(name, total):
    quiet = not sys.stderr.isatty()
    return tqdm.tqdm(desc=name, total=total, unit='images', disable=quiet)


def _predict_images(stream, items, folder, draw, shown, outcome):
    """Decoding and drawing happen in threads while the device computes."""
    by_number = {}

    def draw_one(result):
        (number, item), image, detections = result
        detections = shown(detections)
        if draw:
            target = folder / 'pictures' / item.name
            write_image(target, draw_detections(image, detections))
        return number, detections

    with _bar('predict', len(items)) as bar:
        images = _readable(items, outcome, bar)
        for number, detections in map_ahead(draw_one, stream(images)):
            by_number[number] = detections
            bar.update()
    for number in sorted(by_number):
        outcome.add(by_number[number], items[number])


def _readable(
    items, outcome, bar
) -> Iterator[tuple[tuple[int, InputFile], np.ndarray]]:
    """The images that can be read; the others are named and counted."""

    def load(numbered):
        try:
            return numbered, read(numbered[1].path), None
        except UNUSABLE as error:
            return numbered, None, str(error)

    for key, image, problem in map_ahead(load, enumerate(items)):
        if problem is None:
            yield key, image
        else:
            _skip(outcome, problem, bar)


def _skip(outcome, problem, bar):
    outcome.unreadable.append(problem)
    bar.write(f'skipped: {problem}', file=sys.stderr)
    bar.update()


def draw_detections(image: np.ndarray, detections: ImageDetections) -> np.ndarray:
    """The image with boxes, names and scores; a small one is enlarged."""
    enlarged, boxes = scale_up(image, detections.boxes, _SMALLEST_SIDE)
    return draw_boxes(
        enlarged, boxes, detections.labels, detections.classes, detections.scores
    )


# Videos ------------------------------------------------------------------------------


def _predict_video(stream, item, folder, draw, shown, outcome):
    capture = cv2.VideoCapture(str(item.path))
    writer = None
    with _bar(item.path.name, int(capture.get(cv2.CAP_PROP_FRAME_COUNT))) as bar:
        try:
            _check_video(capture, item)
            frames = enumerate(_frames(capture))
            for frame, image, detections in stream(frames):
                detections = shown(detections)
                outcome.add(detections, item, frame=frame)
                if draw:
                    drawn = draw_detections(image, detections)
                    writer = writer or _open_writer(folder, item, capture, drawn)
                    writer.write(cv2.cvtColor(drawn, cv2.COLOR_RGB2BGR))
                bar.update()
        except BadImage as error:
            _skip(outcome, str(error), bar)
        finally:
            capture.release()
            if writer is not None:
                writer.release()


def _check_video(capture, item):
    if not capture.isOpened():
        raise BadImage(f'{item.path}: not a video that OpenCV can read')


def _frames(capture):
    while True:
        done, frame = capture.read()
        if not done:
            return
        yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)


def _open_writer(folder, item, capture, frame):
    target = folder / 'pictures' / item.name
    target.parent.mkdir(parents=True, exist_ok=True)
    rate = capture.get(cv2.CAP_PROP_FPS) or 25.0
    code = cv2.VideoWriter_fourcc(*'mp4v')
    writer = cv2.VideoWriter(str(target), code, rate, frame.shape[1::-1])
    if not writer.isOpened():
        raise OSError(f'OpenCV cannot write a video to {target}')
    return writer


# Files of numbers --------------------------------------------------------------------


def _write(folder, outcome, classes):
    category_ids = outcome.ids.category_ids
    results = [
        result
        for image_id, detections in outcome.detections.items()
        for result in coco_results(
            image_id,
            detections.boxes,
            detections.scores,
            detections.labels,
            category_ids,
        )
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
        table = csv.writer(file)
        table.writerow(('file', 'frame', 'class', 'score', 'x1', 'y1', 'x2', 'y2'))
        for image in outcome.images:
            detections = outcome.detections[image['id']]
            source = image['file_name'], image.get('frame', '')
            rows = zip(
                detections.boxes, detections.scores, detections.names, strict=True
            )
            for box, score, name in rows:
                corners = [f'{side:.2f}' for side in box]
                table.writerow((*source, name, f'{score:.4f}', *corners))
