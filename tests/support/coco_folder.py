"""A small COCO annotation file on disk that tests load and damage."""

import copy
import json

import pytest

from atss_jax.data.coco.dataset import CocoDataset

COCO = {
    'info': {'description': 'three images'},
    'images': [
        {'id': 7, 'file_name': 'a.png', 'height': 40, 'width': 60},
        {'id': 3, 'file_name': 'b.png', 'height': 50, 'width': 30},
        {'id': 5, 'file_name': 'c.png', 'height': 40, 'width': 40},
    ],
    'annotations': [
        {
            'id': 1,
            'image_id': 5,
            'category_id': 4,
            'bbox': [1, 2, 10, 20],
            'area': 100.5,
            'iscrowd': 0,
            'segmentation': [[1, 2, 3, 4]],
        },
        {
            'id': 2,
            'image_id': 7,
            'category_id': 9,
            'bbox': [-5.5, 2, 100, 20],
            'area': 50,
            'iscrowd': 1,
        },
        {'id': 3, 'image_id': 7, 'category_id': 4, 'bbox': [0, 0, 4, 5]},
    ],
    'categories': [
        {'id': 9, 'name': 'cat', 'supercategory': 'animal'},
        {'id': 4, 'name': 'dog'},
    ],
}


class Folder:
    """An annotation file that tests change, with an image folder next to it."""

    def __init__(self, path):
        self.images = path / 'images'
        self.images.mkdir()
        self.file = path / 'annotations.json'
        self.content = copy.deepcopy(COCO)

    def load(self, **kwargs):
        self.file.write_text(json.dumps(self.content))
        return CocoDataset(str(self.file), str(self.images), **kwargs)

    def rejects(self, *parts, error=ValueError, **kwargs):
        """Checks that loading fails, with the file and all `parts` in the message."""
        with pytest.raises(error) as caught:
            self.load(**kwargs)
        for part in (str(self.file), *parts):
            assert part in str(caught.value)
