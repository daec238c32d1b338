"""What a check of a data set works on, and what it finds."""

import dataclasses

import numpy as np

from atss_jax.data.check.decoded import DecodedImage
from atss_jax.data.records import Source

MAX_NAMED = 4
"""Names that a finding lists."""
_MAX_EXAMPLES = 4


@dataclasses.dataclass(frozen=True)
class Expectations:
    """What a config expects of data; the defaults are those of `atss_r50_1x`.

    Attributes:
        img_scale: sides that images are resized to fit into.
        anchors: side of the anchors of each level, in pixels of the resized image.
        max_boxes: boxes per image at most.
        max_bad: fraction of the images of a split that may be unusable.
        skips_malformed: whether malformed records are left out instead of an error.
        min_size: images with a shorter side are not trained on.
        from_config: whether they are those of a config that the user gave.
    """

    img_scale: tuple[int, int] = (1333, 800)
    anchors: tuple[float, ...] = (64, 128, 256, 512, 1024)
    max_boxes: int = 100
    max_bad: float = 0.001
    skips_malformed: bool = False
    min_size: int = 32
    from_config: bool = False


@dataclasses.dataclass(frozen=True)
class Objects:
    """The annotations of the classes to detect as columns, as they were written.

    Attributes:
        rows: (M,) int64, index of the record of each.
        labels: (M,) int64.
        boxes: (M,4) float64 x, y, width, height in pixels of the original image.
        crowds: (M,) bool.
    """

    rows: np.ndarray
    labels: np.ndarray
    boxes: np.ndarray
    crowds: np.ndarray


@dataclasses.dataclass(frozen=True)
class CheckedSplit:
    """One split, read, with its images decoded.

    Attributes:
        name: of the split.
        source: all its images.
        objects: its annotations.
        images: what decoding showed, by record.
        warnings: what the reader said, and whether it is about malformed records.
        is_training: whether it is trained on, and not only evaluated.
    """

    name: str
    source: Source
    objects: Objects
    images: list[DecodedImage]
    warnings: list[tuple[str, bool]]
    is_training: bool

    @property
    def counts(self) -> np.ndarray:
        """(N,) number of objects of each image."""
        return np.bincount(self.objects.rows, minlength=len(self.source.records))

    @property
    def is_lost(self) -> bool:
        """Whether it has no objects since records are malformed."""
        is_malformed = any(is_malformed for _, is_malformed in self.warnings)
        return is_malformed and not len(self.objects.rows)

    @property
    def sizes(self) -> np.ndarray:
        """(N,2) float64 height, width of the original images."""
        return self.source.records.sizes.astype(np.float64)


@dataclasses.dataclass(frozen=True)
class Finding:
    """Something about the data that a user should know.

    Attributes:
        stops: whether training stops because of it.
        text: what it is, with its number.
        names: of the first images that it is about.
        examples: split and index of the record of some of these images.
        objects: split and index in `Objects` of the boxes that it is about.
        command: what to type to resolve it.
    """

    stops: bool
    text: str
    names: tuple[str, ...] = ()
    examples: tuple[tuple[str, int], ...] = ()
    objects: frozenset[tuple[str, int]] = frozenset()
    command: str = ''


def about_images(
    split: CheckedSplit, rows: np.ndarray, text: str, stops: bool = False
) -> Finding:
    """The finding `text` about the images of the records `rows`, repeated or not."""
    rows = np.unique(rows).tolist()
    names = [image_name(split, row) for row in rows[:MAX_NAMED]]
    if len(rows) > MAX_NAMED:
        names.append('...')
    examples = tuple((split.name, row) for row in rows[:_MAX_EXAMPLES])
    return Finding(stops, f'{split.name}: {text}', tuple(names), examples)


def about_objects(split: CheckedSplit, indices: np.ndarray, text: str) -> Finding:
    """The finding `text` about some objects, by their indices."""
    finding = about_images(split, split.objects.rows[indices], text)
    objects = frozenset((split.name, index) for index in indices.tolist())
    return dataclasses.replace(finding, objects=objects)


def image_name(split: CheckedSplit, row: int) -> str:
    """The file name of a record without its folders; the id of one without a file."""
    records = split.source.records
    name = str(records.file_names[row]).replace('\\', '/').rpartition('/')[2]
    return name or f'image id {records.image_ids[row]}'


def objects_of(source: Source) -> Objects:
    """The annotations of a source that belong to its records and its classes."""
    annotations = source.ground_truth()['annotations']
    row_of = {id_: row for row, id_ in enumerate(source.records.image_ids.tolist())}
    label_of = {id_: label for label, id_ in enumerate(source.category_ids)}
    kept = [
        each
        for each in annotations
        if each['image_id'] in row_of and each['category_id'] in label_of
    ]
    return Objects(
        rows=np.array([row_of[each['image_id']] for each in kept], np.int64),
        labels=np.array([label_of[each['category_id']] for each in kept], np.int64),
        boxes=np.array([each['bbox'] for each in kept], np.float64).reshape(-1, 4),
        crowds=np.array([bool(each.get('iscrowd')) for each in kept], bool),
    )
