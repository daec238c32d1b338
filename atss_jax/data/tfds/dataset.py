"""Data sets prepared by TensorFlow Datasets, read without TensorFlow."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.records import Record
from atss_jax.data.selection import ImageFilter, select
from atss_jax.data.tfds.index import read_index
from atss_jax.data.tfds.storage import folder_of, open_builder, open_rows, record_errors


class TFDSDataset:
    """A split of a data set that is stored as array_record, as a `Source`.

    If `prepare-tfds` made it from a COCO file, it has the same records in the same
    order as `CocoDataset` of that file, and the same images: training is equal bit for
    bit. TensorFlow Datasets' own `coco` is read as exactly as its records allow; see
    `scan.scan`.

    The annotations of all records come from an index (see `index`), since the plan
    needs them; a process reads only the images that it loads. Worker processes get the
    chosen records (some 30 MB for COCO's train2017), not the index.

    Attributes:
        classes: name of each label.
        category_ids: COCO category id of each label.
        records: the images that remain after filtering.
        untrained: number of annotations that training does not learn, by reason.
    """

    def __init__(
        self,
        data_dir: str,
        name: str,
        split: str,
        classes: tuple[str, ...] | None = None,
        filter_empty_gt: bool = True,
        min_size: int = 32,
        test_mode: bool = False,
        indices: int | None = None,
    ):
        """Reads the index, and no images yet.

        Args:
            data_dir: folder of prepared data sets, local or in a bucket (`gs://...`).
            name: dataset/config:version, such as 'coco/2017:1.1.0'.
            split: 'train', 'validation' or another one of the data set.
            classes: names to detect; None: all of the data set's, in its order.
            filter_empty_gt: whether to drop images without any annotation of a wanted
                category.
            min_size: drop images whose shorter side is below this.
            test_mode: keep every image, whatever the two above say.
            indices: number of images to use, the first of those that remain; None: all.

        Raises:
            FileNotFoundError: there is no prepared data set.
            ValueError: there is no such split or class, no image remains, or TensorFlow
                Datasets is not installed.
            OSError: records cannot be read.
        """
        self.data_dir, self.name, self.split = data_dir, name, split
        self._label = f'{folder_of(data_dir, name)} {split}'
        images = ImageFilter(filter_empty_gt, min_size, test_mode, indices)
        self.classes, self.category_ids, self.records, self.untrained = select(
            self._index, '', classes, images
        )
        rows = np.argsort(self._index.image_ids)
        self._rows_by_id = rows, self._index.image_ids[rows]

    def __getstate__(self) -> dict:
        """Without the index and open files, which any process can open again."""
        return {
            name: value
            for name, value in self.__dict__.items()
            if name not in ('_index', '_rows')
        }

    @functools.cached_property
    def _index(self) -> Annotations:
        return read_index(open_builder(self.data_dir, self.name), self.split)

    @functools.cached_property
    def _rows(self) -> Sequence[dict[str, Any]]:
        return open_rows(open_builder(self.data_dir, self.name), self.split)

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`, turned as its EXIF orientation says.

        Args:
            record: whose image to read.
            shown: as of `Source.read_image`.

        Raises:
            OSError: the record cannot be read.
            BadImage: it is not an image, is cut off, or is not of this size.
            ValueError: the index does not belong to the records.
        """
        owner = f'image id {record.image_id}, {self._label}'
        rows, image_ids = self._rows_by_id
        row = int(rows[np.searchsorted(image_ids, record.image_id)])
        with record_errors(f'{record.file_name} (record {row}, {owner})'):
            stored = self._rows[row]
        if int(stored['image/id']) != record.image_id:
            raise ValueError(
                f'{self._label}: record {row} has image id {stored["image/id"]}, its '
                f'index says {record.image_id}; prepare the data set again'
            )
        name = record.file_name
        return image_file.decode(stored['image'], record.size, name, owner, shown)

    def ground_truth(self) -> dict:
        """All annotations of the split as a COCO dict; nothing is filtered."""
        return self._index.as_dict()
