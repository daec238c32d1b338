"""A data set of generated images of colored shapes; nothing is stored on disk.

Each image has two streams of random numbers, both seeded with (seed, index): one for
its scene (sizes, shapes, boxes), one for its paint. Records need the scene only.
"""

import dataclasses
import functools
from typing import ClassVar

import numpy as np

from atss_jax.data.records import Record, Records
from atss_jax.data.shapes.scene import OUTLINES, Scene, drawn_box, paint, sample_scene

# Nobody could tell the class of an object of fewer pixels across.
MIN_OBJECT_PIXELS = 8
SCENE, PAINT = 0, 1


@dataclasses.dataclass(frozen=True)
class ShapesDataset:
    """Images of circles, squares, triangles, stars and crosses, as a `Source`.

    Color, rotation and size are random, so that only the outline tells the class.
    Objects overlap and reach beyond the border, but each shows `min_visible` of its
    area. A box tightly encloses the object's part inside the image, including what
    other objects hide. Every image has at least one object.

    Images and boxes are a pure function of the fields and the index, whatever the order
    of access, the process or global random states. Other versions of NumPy or OpenCV
    may generate another set, since neither guarantees the same numbers.

    Attributes:
        num_images: number of images; ids are 1..num_images.
        seed: another seed gives another set; use one for each split.
        min_size, max_size: each side is sampled uniformly from this range, in pixels.
        max_objects: each image has 1..max_objects objects.
        object_size: smallest and largest diameter relative to the shorter side; small
            and large ones are equally likely (log-uniform).
        min_visible: share of its area that every object shows.
        max_rotation: an object is turned by up to this many degrees either way.
        clutter: number of lines and specks, which are not objects, per 1,000 pixels.
        noise: standard deviation of the noise, in gray levels out of 255.

    Raises:
        ValueError: a field is out of its range.
    """

    num_images: int
    seed: int = 0
    min_size: int = 128
    max_size: int = 128
    max_objects: int = 6
    object_size: tuple[float, float] = (0.15, 0.6)
    min_visible: float = 0.6
    max_rotation: float = 180.0
    clutter: float = 1.0
    noise: float = 8.0

    classes: ClassVar[tuple[str, ...]] = tuple(OUTLINES)
    # They differ from the labels, so that code that confuses the two fails here too.
    category_ids: ClassVar[tuple[int, ...]] = tuple(range(1, len(OUTLINES) + 1))
    untrained: ClassVar[dict[str, int]] = {}

    def __post_init__(self):
        _expect(self.num_images >= 1, 'num_images >= 1', self.num_images)
        _expect(0 <= self.seed < 2**32, '0 <= seed < 2**32', self.seed)
        sizes = self.min_size, self.max_size
        _expect(1 <= sizes[0] <= sizes[1], '1 <= min_size <= max_size', sizes)
        _expect(self.max_objects >= 1, 'max_objects >= 1', self.max_objects)
        _expect(
            len(self.object_size) == 2
            and 0 < self.object_size[0] <= self.object_size[1] <= 1,
            'object_size (smallest, largest) within 0..1',
            self.object_size,
        )
        _expect(
            self.object_size[0] * self.min_size >= MIN_OBJECT_PIXELS,
            f'object_size[0] * min_size >= {MIN_OBJECT_PIXELS} pixels',
            self.object_size[0] * self.min_size,
        )
        _expect(0 < self.min_visible <= 1, '0 < min_visible <= 1', self.min_visible)
        turn = self.max_rotation
        _expect(0 <= turn <= 180, '0 <= max_rotation <= 180 degrees', turn)
        _expect(self.clutter >= 0, 'clutter >= 0', self.clutter)
        _expect(0 <= self.noise <= 64, '0 <= noise <= 64', self.noise)

    def __getstate__(self) -> dict:
        """The fields without the records, which any process can compute again."""
        fields = dataclasses.fields(self)
        return {field.name: getattr(self, field.name) for field in fields}

    @functools.cached_property
    def records(self) -> Records:
        """All images and their boxes; no image is painted."""
        return Records.from_list([self._record(k) for k in range(self.num_images)])

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """Paints the image of a record: (H,W,3) uint8 RGB.

        Raises:
            ValueError: the record is not of this data set.
        """
        index = record.image_id - 1
        if not 0 <= index < self.num_images:
            raise ValueError(
                f'expected an image id in 1..{self.num_images}, got {record.image_id}'
            )
        scene = self.scene(index)
        if scene.size != tuple(record.size):
            raise ValueError(
                f'expected size {scene.size} for image {record.image_id}, got '
                f'{tuple(record.size)}: the record is of another data set'
            )
        return paint(scene, self._rng(index, PAINT), self.clutter, self.noise)

    def scene(self, index: int) -> Scene:
        """Where the objects of image `index` (from 0) are, the frontmost first."""
        rng = self._rng(index, SCENE)
        height, width = rng.integers(self.min_size, self.max_size + 1, 2).tolist()
        return sample_scene(
            rng,
            (height, width),
            self.max_objects,
            self.object_size,
            self.min_visible,
            self.max_rotation,
        )

    def ground_truth(self) -> dict:
        """The annotations as a COCO dict; there are no files of its file names."""
        records = [self.records[k] for k in range(self.num_images)]
        names = zip(self.category_ids, self.classes, strict=True)
        return {
            'images': [
                {
                    'id': record.image_id,
                    'file_name': f'{record.image_id:06d}.png',
                    'height': record.size[0],
                    'width': record.size[1],
                }
                for record in records
            ],
            'annotations': self._annotations(),
            'categories': [{'id': number, 'name': name} for number, name in names],
        }

    def _annotations(self) -> list[dict]:
        records = self.records
        owners = np.repeat(records.image_ids, records.counts).tolist()
        boxes = records.boxes.astype(np.float64)
        boxes[:, 2:] -= boxes[:, :2]
        rows = zip(owners, records.labels.tolist(), boxes.tolist(), strict=True)
        return [
            {
                'id': k,
                'image_id': owner,
                'category_id': self.category_ids[label],
                'bbox': box,
                'area': box[2] * box[3],
                'iscrowd': 0,
            }
            for k, (owner, label, box) in enumerate(rows, start=1)
        ]

    def _record(self, index: int) -> Record:
        scene = self.scene(index)
        boxes = [drawn_box(outline, scene.size) for outline in scene.outlines]
        return Record(
            image_id=index + 1,
            file_name='',
            size=scene.size,
            boxes=np.array(boxes, np.float32),
            labels=np.array(scene.labels, np.int32),
            ignored=np.zeros(len(boxes), bool),
        )

    def _rng(self, index: int, stream: int) -> np.random.Generator:
        seeds = np.random.SeedSequence([self.seed, index, stream])
        return np.random.Generator(np.random.PCG64(seeds))


def _expect(holds: bool, expected: str, actual: object) -> None:
    if not holds:
        raise ValueError(f'ShapesDataset: expected {expected}, got {actual}')
