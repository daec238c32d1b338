"""The records that `prepare-tfds` writes: those of `coco/2017` plus exact numbers."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from atss_jax.data.coco.annotation_file import CocoFile
from atss_jax.data.tfds import storage


def features(file: CocoFile) -> Any:
    """The `tfds.features.FeaturesDict` of a record."""
    tfds = storage.library()
    number = tfds.features.Tensor(shape=(), dtype=np.float64, encoding='bytes')
    box = tfds.features.Tensor(shape=(4,), dtype=np.float64, encoding='bytes')
    return tfds.features.FeaturesDict(
        {
            # As in coco/2017. The encoding is for arrays; bytes are stored unchanged.
            'image': tfds.features.Image(encoding_format='jpeg'),
            'image/filename': tfds.features.Text(),
            'image/id': np.int64,
            'image/height': np.int64,
            'image/width': np.int64,
            'objects': tfds.features.Sequence(
                {
                    'area': np.int64,
                    'bbox': tfds.features.BBoxFeature(),
                    'id': np.int64,
                    'is_crowd': np.bool_,
                    'label': tfds.features.ClassLabel(
                        names=list(file.categories.values())
                    ),
                    # Ours; as bytes, since records hold no floats except float32.
                    'area_exact': number,
                    'bbox_exact': box,
                    'category_id': np.int64,
                    'ignore': np.bool_,
                }
            ),
        }
    )


def examples(file: CocoFile, paths: list[str]) -> Iterator[dict[str, Any]]:
    """The record of each image, in the order of the file."""
    row_of = {id_: row for row, id_ in enumerate(file.image_ids.tolist())}
    rows = np.array([row_of[id_] for id_ in file.annotation_images.tolist()], np.int64)
    order = np.argsort(rows, kind='stable')
    ends = np.cumsum(np.bincount(rows, minlength=len(paths)))
    starts = np.concatenate([[0], ends[:-1]])
    labels = {id_: label for label, id_ in enumerate(file.categories)}
    for row, path in enumerate(paths):
        height, width = file.image_sizes[row].tolist()
        objects = order[starts[row] : ends[row]]
        with open(path, 'rb') as stream:
            content = stream.read()
        yield {
            'image': content,
            'image/filename': file.file_names[row],
            'image/id': int(file.image_ids[row]),
            'image/height': height,
            'image/width': width,
            'objects': [_object(file, k, labels, (height, width)) for k in objects],
        }


def _object(
    file: CocoFile, k: int, labels: dict[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    x, y, width, height = file.boxes[k].tolist()
    category_id = int(file.annotation_categories[k])
    return {
        'area': int(file.areas[k]),
        'bbox': _relative_box(x, y, x + width, y + height, size),
        'id': int(file.annotation_ids[k]),
        'is_crowd': bool(file.crowds[k]),
        'label': labels[category_id],
        'area_exact': np.float64(file.areas[k]),
        'bbox_exact': file.boxes[k],
        'category_id': category_id,
        'ignore': bool(file.dropped[k]),
    }


def _relative_box(x1, y1, x2, y2, size):
    """(4,) ymin, xmin, ymax, xmax within 0..1, as TensorFlow Datasets requires."""
    corners = np.array([y1, x1, y2, x2]) / np.tile(size, 2)
    corners = np.clip(corners, 0.0, 1.0)
    corners[2:] = np.maximum(corners[:2], corners[2:])
    return corners
