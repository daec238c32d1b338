"""Images that cannot be read: replaced in training, counted, and too many refused.

Workers replace and mark them in the batch's `skipped`; the process that takes the
batches counts them there, since what a worker says nobody sees.
"""

import contextlib
import math
import warnings
from collections.abc import Callable, Generator

import numpy as np

from atss_jax.data.image_file import UNUSABLE, BadImage
from atss_jax.data.records import Source

Batch = dict[str, np.ndarray]

NONE = -1
"""In `skipped`: nothing was. Record indices, unlike image ids, are never negative."""


def load_or_replace(
    load: Callable[[int], Batch], own: int, others: Callable[[], np.ndarray]
) -> Batch:
    """A row of record `own`; if its image is bad, of the first good one of `others`.

    Args:
        load: makes a row of a record.
        own: index of the record.
        others: gives indices of records to try instead, in this order.

    Raises:
        BadImage: none of them can be read either.
    """
    try:
        return load(own)
    except UNUSABLE as error:
        first = error
    tried = others()
    for other in tried:
        with contextlib.suppress(*UNUSABLE):
            return load(int(other)) | {'skipped': np.array(own, np.int64)}
    raise BadImage(
        f'{first}. Of {len(tried)} other images that fit its canvas, none can be '
        'read to take its place'
    ) from first


class BadImages:
    """Counts the images of a source that could not be read, and says why.

    Attributes:
        reasons: of each, by record index, in the order in which they were met.
    """

    def __init__(self, source: Source, share: float):
        """Starts with none.

        Args:
            source: whose records they are.
            share: of its images that may be bad; one always may, unless it is 0.
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
        """The same batches; warns of each bad image once.

        Raises:
            ValueError: there are more of them than may be.
        """
        with contextlib.closing(batches):
            for batch in batches:
                self.add(batch['skipped'])
                yield batch

    def add(self, indices: np.ndarray) -> None:
        """Counts records whose images are bad, as far as they are not counted yet.

        Raises:
            ValueError: there are more of them than may be.
        """
        for index in indices.tolist():
            if index != NONE and index not in self.reasons:
                self._count(index)

    def _count(self, index):
        reason = self.reasons[index] = self._reason(index)
        count, limit = len(self.reasons), self._limit
        if count > limit:
            raise ValueError(
                f'{count} of {len(self._source.records)} images cannot be read, and '
                f'data.max_bad_pictures = {self._share:g} lets {limit} pass. The last '
                f'is {reason}. Image ids: {self.image_ids}. Mend the files, or take '
                'their records out of the annotation file, or raise '
                'data.max_bad_pictures'
            )
        warnings.warn(
            f'bad image {count} of at most {limit}, passed over: {reason}',
            stacklevel=3,
        )

    def _reason(self, index):
        """Reads the image again: its worker knew the reason and could not say it."""
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
        """Of the bad images, in the order in which they were met."""
        return [int(self._source.records.image_ids[index]) for index in self.reasons]

    def report(self) -> list[str]:
        """One line if there were any, else none."""
        if not self.reasons:
            return []
        return [
            f'bad images passed over: {len(self.reasons)} (at most {self._limit} may '
            f'be); image ids {self.image_ids}'
        ]
