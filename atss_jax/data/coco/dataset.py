"""Data sets in COCO's format: an annotation file and a folder of images."""

import os

import numpy as np

from atss_jax.data import record_image
from atss_jax.data.coco import annotation_file
from atss_jax.data.coco.annotation_file import ON_ERROR
from atss_jax.data.records import Record
from atss_jax.data.selection import ImageFilter, select

_HINT = (
    'To train on generated images, without any data of your own: '
    'atss train --config=atss_shapes --workdir=shapes'
)


class CocoDataset:
    """A COCO annotation file and its images, as mmdet reads them.

    Annotations are kept if mmdet keeps them: `ignore` is absent or 0, the box overlaps
    the image, the area is above 0, width and height are at least 1, and the category is
    among `classes`. Boxes are not clipped, crowds become `ignored`, and images keep the
    file's order.

    Attributes:
        classes: name of each label.
        category_ids: COCO category id of each label.
        records: the images that remain after filtering.
        untrained: number of annotations that training does not learn, by reason.

    Source: mmdet.datasets.CocoDataset.
    """

    def __init__(
        self,
        ann_file: str,
        img_prefix: str,
        classes: tuple[str, ...] | None = None,
        filter_empty_gt: bool = True,
        min_size: int = 32,
        test_mode: bool = False,
        indices: int | None = None,
        on_error: str = 'raise',
    ):
        """Reads the annotations, and no images yet.

        Differs from mmdet: there labels follow the order of the file's categories even
        if `classes` is ordered otherwise, which silently swaps names. Here label i is
        `classes[i]`, matched by name.

        Args:
            ann_file: the JSON file.
            img_prefix: folder that the file's `file_name`s are relative to; empty for
                the current one.
            classes: names to detect; None: all of the file's, in its order.
            filter_empty_gt: whether to drop images without any annotation of a wanted
                category (dropped annotations count too, as in mmdet).
            min_size: drop images whose shorter side is below this.
            test_mode: keep every image, whatever the two above say; annotations and
                sizes of images may be missing, see `annotation_file.read`.
            indices: number of images to use, the first of those that remain; None: all.
            on_error: 'raise' an error about the first malformed image or annotation, or
                'skip': malformed ones are left out, and a warning counts them.

        Raises:
            FileNotFoundError: `ann_file` or `img_prefix` does not exist.
            ValueError: the file is malformed or lacks a class, or no image remains.
        """
        if on_error not in ON_ERROR:
            raise ValueError(f'on_error must be one of {ON_ERROR}, found {on_error!r}')
        check_paths(ann_file, img_prefix)
        self._file = annotation_file.read(
            ann_file, on_error, not test_mode, img_prefix, classes
        )
        self._img_prefix = img_prefix
        images = ImageFilter(filter_empty_gt, min_size, test_mode, indices)
        self.classes, self.category_ids, self.records, self.untrained = select(
            self._file, img_prefix, classes, images
        )

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`, turned as its EXIF orientation says.

        Args:
            record: whose image to read.
            shown: as of `Source.read_image`.

        Raises:
            OSError: the file is missing or cannot be read.
            BadImage: it is not an image, is cut off, or is not of this size.
        """
        return record_image.read(record, self._file.path, self._img_prefix, shown=shown)

    def ground_truth(self) -> dict:
        """The whole file as a COCO dict, reduced to what the evaluation of boxes reads.

        Nothing is filtered: annotations that training drops count in the scores, as
        when pycocotools reads the file itself. Missing `area` and `iscrowd` are filled
        in.
        """
        return self._file.as_dict()


def check_paths(ann_file: str, img_prefix: str) -> None:
    """Raises FileNotFoundError if the file or the folder does not exist."""
    if not os.path.isfile(ann_file):
        raise FileNotFoundError(f'ann_file = {ann_file!r}: file not found. {_HINT}')
    if img_prefix and not os.path.isdir(img_prefix):
        raise FileNotFoundError(
            f'img_prefix = {img_prefix!r} is not a folder '
            f'(the images of {ann_file}). {_HINT}'
        )
