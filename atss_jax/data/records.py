"""Records: the images of a data set and their objects, before any image is read."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and its objects, in pixels of the original image.

    Attributes:
        image_id: the id that results are reported under.
        file_name: path of the image; empty for a generated one.
        size: height, width in pixels.
        boxes: (G,4) float32 xyxy, as annotated: they may reach outside the image.
        labels: (G,) int32, 0..C-1.
        ignored: (G,) bool, crowd regions: never a target.
    """

    image_id: int
    file_name: str
    size: tuple[int, int]
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray


@dataclasses.dataclass(frozen=True)
class Records:
    """All records of a data set, as columns.

    With columns the 118,000 images of COCO are seven arrays to send to a worker
    process; as objects they would be half a million small ones.

    Attributes:
        image_ids: (N,) int64.
        file_names: (N,) str.
        sizes: (N,2) int32 height, width.
        offsets: (N+1,) int64: rows offsets[i]:offsets[i+1] of the columns below are
            the objects of image i.
        boxes: (M,4) float32 xyxy.
        labels: (M,) int32.
        ignored: (M,) bool.
    """

    image_ids: np.ndarray
    file_names: np.ndarray
    sizes: np.ndarray
    offsets: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray
    ignored: np.ndarray

    @classmethod
    def from_list(cls, records: list[Record]) -> 'Records':
        """Stacks the fields of single records into columns."""
        counts = [len(record.labels) for record in records]

        def stack(name, dtype, width=()):
            rows = [getattr(record, name) for record in records]
            empty = np.zeros((0, *width), dtype)
            return np.concatenate([empty, *rows]).astype(dtype)

        return cls(
            image_ids=np.array([record.image_id for record in records], np.int64),
            file_names=np.array([record.file_name for record in records], str),
            sizes=np.array([record.size for record in records], np.int32).reshape(
                -1, 2
            ),
            offsets=np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            boxes=stack('boxes', np.float32, (4,)),
            labels=stack('labels', np.int32),
            ignored=stack('ignored', bool),
        )

    def __len__(self) -> int:
        return len(self.image_ids)

    def __getitem__(self, index: int) -> Record:
        objects = slice(self.offsets[index], self.offsets[index + 1])
        return Record(
            image_id=int(self.image_ids[index]),
            file_name=str(self.file_names[index]),
            size=(int(self.sizes[index, 0]), int(self.sizes[index, 1])),
            boxes=self.boxes[objects],
            labels=self.labels[objects],
            ignored=self.ignored[objects],
        )

    def first(self, count: int) -> 'Records':
        """The first `count` records, or all if there are fewer."""
        return self.from_list([self[i] for i in range(min(count, len(self)))])

    def digest(self) -> str:
        """Hash of all columns that training depends on: of all except file names."""
        columns = dataclasses.asdict(self)
        del columns['file_names']
        content = hashlib.sha256()
        for name, column in columns.items():
            content.update(f'{name} {column.dtype} {column.shape}'.encode())
            content.update(np.ascontiguousarray(column))
        return content.hexdigest()

    @property
    def counts(self) -> np.ndarray:
        """(N,) number of boxes of each image, crowds included."""
        return np.diff(self.offsets)


class Source(Protocol):
    """A data set, of any form: `CocoDataset`, `TFDSDataset`, `JoinedDataset`, ..."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """COCO category id of each label; used only where JSON is written or scored."""
    records: Records
    untrained: dict[str, int]
    """Number of annotations that training does not learn, by reason."""

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`.

        Args:
            record: whose image to read.
            shown: height, width that the image will be resized to: it may be returned
                smaller than `record.size`, but not smaller than this. Without effect
                where images are not decoded from JPEGs. None: at full size.

        Raises:
            ValueError, OSError: `image_file.UNUSABLE` if the image is bad, others if
                the machine fails.
        """

    def ground_truth(self) -> dict:
        """The annotations as a COCO dict, which evaluation scores against."""
