"""What a source lists: images and their objects, nothing decoded yet."""

import dataclasses
import hashlib
from typing import Protocol

import numpy as np


@dataclasses.dataclass(frozen=True)
class Record:
    """One image and its objects, in pixels of the original image.

    Attributes:
        image_id: the id that results are reported under.
        file_name: path of the image; empty for generated images.
        size: height, width in pixels.
        boxes: (G,4) float32 xyxy, as annotated (they may reach outside).
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
    """All records of a source, by column.

    Columns, not objects: the 118,000 images of COCO are a dozen arrays to hand to a
    worker process, not half a million small ones.
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
        own = slice(self.offsets[index], self.offsets[index + 1])
        return Record(
            image_id=int(self.image_ids[index]),
            file_name=str(self.file_names[index]),
            size=(int(self.sizes[index, 0]), int(self.sizes[index, 1])),
            boxes=self.boxes[own],
            labels=self.labels[own],
            ignored=self.ignored[own],
        )

    def first(self, count: int) -> 'Records':
        """The first `count` records, or all if there are fewer."""
        return self.from_list([self[i] for i in range(min(count, len(self)))])

    def digest(self) -> str:
        """Hash of all that decides what is learned, but for names and images."""
        columns = dataclasses.asdict(self)
        del columns['file_names']
        content = hashlib.sha256()
        for name, column in columns.items():
            content.update(f'{name} {column.dtype} {column.shape}'.encode())
            content.update(np.ascontiguousarray(column))
        return content.hexdigest()

    @property
    def counts(self) -> np.ndarray:
        """(N,) number of boxes of each record, crowds included."""
        return np.diff(self.offsets)


class Source(Protocol):
    """Where records come from: `coco.CocoDataset`, `shapes.ShapesDataset`."""

    classes: tuple[str, ...]
    category_ids: tuple[int, ...]
    """COCO category id of each label; used only where JSON is written or scored."""
    records: Records

    def read_image(self, record: Record) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`.

        Raises:
            ValueError, OSError: `images.UNUSABLE` of an image that is bad, others of
                a machine that fails.
        """

    def ground_truth(self) -> dict:
        """The annotations as a COCO dict: what evaluation scores against."""
