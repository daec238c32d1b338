"""The annotations of a data set as a table of columns."""

import dataclasses

import numpy as np

COLUMNS_OF_IMAGES = ('image_ids', 'file_names', 'image_sizes')
"""Fields of `Annotations` with a row per image."""

COLUMNS_OF_ANNOTATIONS = (
    'annotation_ids',
    'annotation_images',
    'annotation_categories',
    'boxes',
    'areas',
    'crowds',
    'dropped',
)
"""Fields of `Annotations` with a row per annotation."""


@dataclasses.dataclass(frozen=True)
class Annotations:
    """The annotations of a data set as columns, in its order.

    All readers, whatever the form of the data, give this table.

    Attributes:
        path: of the file or folder that they were read from, for messages.
        image_ids: (N,) int64.
        file_names: (N,) as written there, relative to the image folder.
        image_sizes: (N,2) int64 height, width.
        annotation_ids: (M,) int64.
        annotation_images: (M,) int64, image id of each annotation.
        annotation_categories: (M,) int64, category id of each annotation.
        boxes: (M,4) float64 x, y, width, height.
        areas: (M,) float64; width * height where none is given.
        crowds: (M,) bool; False where nothing is said.
        dropped: (M,) bool, annotations with a non-zero `ignore`.
        categories: name of each category id.
    """

    path: str
    image_ids: np.ndarray
    file_names: list[str]
    image_sizes: np.ndarray
    annotation_ids: np.ndarray
    annotation_images: np.ndarray
    annotation_categories: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    crowds: np.ndarray
    dropped: np.ndarray
    categories: dict[int, str]

    def as_dict(self) -> dict:
        """The COCO dict, reduced to what the evaluation of boxes reads."""
        images = zip(
            self.image_ids.tolist(),
            self.file_names,
            self.image_sizes.tolist(),
            strict=True,
        )
        annotations = zip(
            self.annotation_ids.tolist(),
            self.annotation_images.tolist(),
            self.annotation_categories.tolist(),
            self.boxes.tolist(),
            self.areas.tolist(),
            self.crowds.astype(int).tolist(),
            strict=True,
        )
        keys = ('id', 'image_id', 'category_id', 'bbox', 'area', 'iscrowd')
        return {
            'images': [
                {'id': id_, 'file_name': name, 'height': height, 'width': width}
                for id_, name, (height, width) in images
            ],
            'annotations': [dict(zip(keys, row, strict=True)) for row in annotations],
            'categories': [
                {'id': id_, 'name': name} for id_, name in self.categories.items()
            ],
        }
