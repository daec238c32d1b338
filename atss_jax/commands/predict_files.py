"""What `atss predict` does: detects objects in files, writes images and numbers."""

import functools
import pathlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import tqdm

from atss_jax.commands.command_line import counted
from atss_jax.commands.predict_results import (
    Options,
    Outcome,
    draw_detections,
    write_numbers,
)
from atss_jax.commands.predict_video import predict_video
from atss_jax.config.tree import closest
from atss_jax.data.image_file import UNUSABLE, BadImage, read
from atss_jax.drawing.boxes import write_image
from atss_jax.files.atomic import check_writable
from atss_jax.files.read_ahead import map_ahead
from atss_jax.inference.detector import Detector
from atss_jax.inference.image_detections import ImageDetections
from atss_jax.inference.input_files import InputFile, choose_ids, find_files
from atss_jax.inference.tracks import library


def predict_files(
    detector: Detector, items: Sequence[InputFile], out: str, options: Options
) -> Outcome:
    """Writes `detections.json`, `detections.csv`, `pictures.json` and drawn images.

    A file that cannot be read is named on stderr and skipped. Of videos with
    identities, `tracks/` has these too.

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
    try:
        _predict_images(stream, images, folder, options.draw, shown, outcome)
        _predict_videos(stream, items, folder, options, labels, outcome)
    finally:
        # Hours of detections are not lost because a file cannot be written, or since
        # someone wants to stop here.
        if outcome.images:
            write_numbers(folder, outcome, detector.classes, options.track)
    if not outcome.images:
        raise ValueError(f'none of {len(items)} files can be read')
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
    _check_kinds(items, options)
    check_writable(out)  # before the detector is loaded and has detected everything
    detector = Detector.load(source, **loading)
    if loading['tta']:
        mirrored = ', each also mirrored' if detector.flip else ''
        print(f'test-time augmentation: scales {detector.img_scales}{mirrored}')
    outcome = predict_files(detector, items, out, options)
    print(_summary(outcome, options, out))
    if outcome.unreadable:
        print(
            f'{len(outcome.unreadable)} of {len(items)} files could not be read whole'
        )
    return 3 if outcome.unreadable else 0


def _check_kinds(items, options):
    """Checks that what is asked for can be done with videos, or with images."""
    images = [str(item.path) for item in items if not item.is_video]
    videos = [str(item.path) for item in items if item.is_video]
    if options.track:
        if images:
            raise ValueError(
                f'--track follows objects through videos, but {len(images)} of '
                f'{len(items)} files are images, such as {images[0]}: leave out '
                '--track, or give videos only'
            )
        library()  # before anything is loaded
    if options.ann_file is not None and videos:
        raise ValueError(
            f'--ann_file has an id for each image, but {videos[0]} is a video: its '
            'frames would share one; predict videos without it'
        )


def _summary(outcome, options, out):
    images = counted(len(outcome.images), 'image')
    objects = counted(sum(map(len, outcome.detections.values())), 'object')
    rate = ''
    if outcome.video_frames:
        rate = f', {outcome.video_frames / outcome.video_seconds:.1f} frames/s'
    which = f'with scores of at least {options.score_thr:g}'
    if options.track:
        which = f'in tracks or {which}'
    return f'{images}, {objects} {which}{rate}: {out}'


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
        try:
            for number, detections in map_ahead(draw_one, stream(images)):
                by_number[number] = detections
                bar.update()
        finally:
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


def _predict_videos(stream, items, folder, options, labels, outcome):
    for item in items:
        if item.is_video:
            try:
                predict_video(stream, item, folder, options, labels, outcome)
            except BadImage as error:
                outcome.unreadable.append(str(error))
                print(f'skipped: {error}', file=sys.stderr)
