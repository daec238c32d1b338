"""Images that cannot be read: replaced in training, counted, an error if too many.

Workers replace them and mark the row in the batch's `skipped`. The process that takes
the batches counts them there, since nobody sees what a worker prints.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Generator

import numpy as np

from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.records import Source
from atss_jax.structures import Batch

NOT_SKIPPED = -1
"""In `skipped`, for rows whose own image was read. Indices are never negative."""


def load_or_replace(
    load: Callable[[int], Batch], index: int, substitutes: Callable[[], np.ndarray]
) -> Batch:
    """The row of record `index`, or of the first readable substitute.

    Args:
        load: makes the row of a record.
        index: of the record.
        substitutes: gives the records to try if its image is bad, in this order.

    Raises:
        BadImage: none of the images can be read.
    """
    try:
        return load(index)
    except UNUSABLE as error:
        first_error = error
    others = substitutes()
    for other in others:
        with contextlib.suppress(*UNUSABLE):
            return load(int(other)) | {'skipped': np.array(index, np.int64)}
    raise BadImage(
        f'{first_error}. Of {len(others)} other images that fit its canvas, none can '
        'be read to take its place'
    ) from first_error


class BadImages:
    """Counts the images of a source that could not be read, and says why.

    Attributes:
        reasons: what is wrong with each bad image, by record index, in the order in
            which they were met.
    """

    def __init__(self, source: Source, share: float):
        """Starts with none.

        Args:
            source: whose images are counted.
            share: of the images that may be bad; one always may, unless it is 0.
        """
        self.reasons: dict[int, str] = {}
        self._source, self._share = source, share
        # The sum is for shares such as 0.29, whose product with 100 is below 29.
        self._limit = math.floor(share * len(source.records) + 1e-9)
        if share:
            self._limit = max(self._limit, 1)

    def watch(
        self, batches: Generator[Batch, None, None]
    ) -> Generator[Batch, None, None]:
        """Yields the same batches; warns once about each bad image.

        Raises:
            ValueError: too many images are bad.
        """
        with contextlib.closing(batches):
            for batch in batches:
                self.add(batch['skipped'])
                yield batch

    def add(self, indices: np.ndarray) -> None:
        """Counts records whose images are bad, each only once.

        Raises:
            ValueError: too many images are bad.
        """
        for index in indices.tolist():
            if index != NOT_SKIPPED and index not in self.reasons:
                self._count(index)

    def _count(self, index):
        reason = self.reasons[index] = self._reason(index)
        count, limit = len(self.reasons), self._limit
        if count > limit:
            raise ValueError(
                f'{count} of {len(self._source.records)} images cannot be read, but '
                f'data.max_bad_pictures = {self._share:g} allows {limit}. The last is '
                f'{reason}. Image ids: {self.image_ids}. Fix the files, remove their '
                'records from the annotation file, or raise data.max_bad_pictures'
            )
        warnings.warn(
            f'bad image {count} of at most {limit}, skipped: {reason}', stacklevel=3
        )

    def _reason(self, index):
        """Reads the image again, since a batch does not hold the worker's error."""
        record = self._source.records[index]
        try:
            self._source.read_image(record)
        except UNUSABLE as error:
            return str(error)
        return (
            f'image id {record.image_id} ({record.file_name}), which can be read now: '
            'something changed the file, or the storage is not reliable'
        )

    @property
    def indices(self) -> np.ndarray:
        """Record indices of the bad images."""
        return np.array(list(self.reasons), np.int64)

    @property
    def image_ids(self) -> list[int]:
        """Ids of the bad images, in the order in which they were met."""
        return [int(self._source.records.image_ids[index]) for index in self.reasons]

    def report(self) -> list[str]:
        """A list of one line for the log; empty if there were no bad images."""
        if not self.reasons:
            return []
        return [
            f'bad images skipped: {len(self.reasons)} (at most {self._limit} allowed); '
            f'image ids {self.image_ids}'
        ]
