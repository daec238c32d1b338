"""A folder of generated images with a COCO file, for benchmarks of whole programs."""

import json
import pathlib

import cv2
import numpy as np


def write_data(folder: pathlib.Path, size: tuple[int, int], count: int = 8) -> None:
    """Writes images of noise of (height, width), with a box each, and a COCO file."""
    random, images, annotations = np.random.default_rng(0), [], []
    height, width = size
    for index in range(1, count + 1):
        small = random.integers(256, size=(height // 8, width // 8, 3), dtype=np.uint8)
        image = cv2.resize(small, (width, height))
        name = f'{index}.jpg'
        cv2.imwrite(str(folder / name), image)
        images.append(
            {'id': index, 'file_name': name, 'height': height, 'width': width}
        )
        box = [10, 10, width // 3, height // 3]
        annotations.append(
            {
                'id': index,
                'image_id': index,
                'category_id': 1,
                'bbox': box,
                'area': box[2] * box[3],
                'iscrowd': 0,
            }
        )
    categories = [{'id': 1, 'name': 'thing'}]
    content = {'images': images, 'annotations': annotations, 'categories': categories}
    (folder / 'data.json').write_text(json.dumps(content))
