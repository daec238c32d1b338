"""Cuts the aerial images of deepforest's wheel into tiles: a small real data set.

    pip download --no-deps deepforest==2.1.0 && unzip -q deepforest-*.whl -d trees_wheel
    python benchmarks/trees.py trees_wheel/deepforest/data trees

The wheel has four images with Pascal VOC files: 951 crowns of trees (most of the class
Tree, some Alive and Dead; all are one class here). The right third of the largest image
becomes the tiles to evaluate with, all else those to train on; the tiles of the two do
not overlap. `--whole` writes the right third alone, as one image.

With `--reduce=2` the tiles have half the resolution, as surveys from higher up have:
half of the crowns are then smaller than 20 pixels.
"""

import argparse
import pathlib

import cv2
import numpy as np

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.files.atomic import write_json

_SIDE, _STEP = 400, 300  # pixels; tiles overlap by 100
_VISIBLE = 0.5  # share of a box that must lie in a tile


def main() -> None:
    """Writes `OUT/annotations/instances_{train,val}.json` and `OUT/images`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('data', help='folder deepforest/data of the unpacked wheel')
    parser.add_argument('out', help='folder to write')
    parser.add_argument('--reduce', type=int, default=1, help='default: 1')
    parser.add_argument('--whole', action='store_true', help='one image, no tiles')
    flags = parser.parse_args()
    out = pathlib.Path(flags.out)
    (out / 'images').mkdir(parents=True)
    source = AutoDataset(flags.data, 'all')
    largest = int(np.argmax(np.prod(source.records.sizes, axis=1)))
    tiles = {'val': []} if flags.whole else {'train': [], 'val': []}
    for row in range(len(source.records)):
        width = int(source.records.sizes[row, 1])
        middle = width * 2 // 3 if row == largest else width
        cutter = _Cutter(source, row, flags.reduce, out / 'images')
        if not flags.whole:
            tiles['train'] += cutter.tiles(0, middle)
            tiles['val'] += cutter.tiles(middle, width)
        elif row == largest:
            tiles['val'].append(
                cutter.cut('whole.png', (middle, 0, width, cutter.height))
            )
    for split in tiles:
        path = out / 'annotations' / f'instances_{split}.json'
        path.parent.mkdir(exist_ok=True)
        write_json(path, _coco(tiles[split]))
        count = sum(len(boxes) for _, _, boxes in tiles[split])
        print(f'{path}: {len(tiles[split])} images, {count} trees')


class _Cutter:
    """Cuts parts out of an image."""

    def __init__(self, source, row, reduce, folder):
        record = source.records[row]
        self.height = record.size[0]
        self._image = source.read_image(record)
        self._boxes = record.boxes
        self._stem = pathlib.Path(record.file_name).stem
        self._reduce, self._folder = reduce, folder

    def tiles(self, first, end):
        """The tiles with trees of the columns from `first` to before `end`."""
        if first == end:
            return []
        tiles = []
        for top in _starts(self.height):
            for left in (first + start for start in _starts(end - first)):
                right, bottom = min(left + _SIDE, end), min(top + _SIDE, self.height)
                place = left, top, right, bottom
                if len(self._boxes_in(place)):
                    tiles.append(self.cut(f'{self._stem}_{top}_{left}.png', place))
        return tiles

    def cut(self, name, place):
        """Writes a part of the image; name, (height, width) and (G,4) boxes of it."""
        x1, y1, x2, y2 = place
        part = self._image[y1:y2, x1:x2]
        height, width = (side // self._reduce for side in part.shape[:2])
        # With INTER_AREA each pixel is the mean of those that it stands for.
        small = cv2.resize(part, (width, height), interpolation=cv2.INTER_AREA)
        cv2.imwrite(str(self._folder / name), small[..., ::-1])
        return name, (height, width), self._boxes_in(place) / self._reduce

    def _boxes_in(self, place):
        """(G,4) the boxes in a part, of which enough is visible there."""
        x1, y1, x2, y2 = place
        boxes = np.clip(self._boxes - [x1, y1, x1, y1], 0, [x2 - x1, y2 - y1] * 2)
        return boxes[_areas(boxes) >= _VISIBLE * _areas(self._boxes)]


def _areas(boxes):
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)


def _starts(length):
    return range(0, max(length - (_SIDE - _STEP), 1), _STEP)


def _coco(tiles):
    """The tiles as a COCO dict of one class."""
    annotations = [
        {
            'image_id': image,
            'category_id': 1,
            'bbox': [x1, y1, x2 - x1, y2 - y1],
            'area': (x2 - x1) * (y2 - y1),
            'iscrowd': 0,
        }
        for image, (_, _, boxes) in enumerate(tiles, 1)
        for x1, y1, x2, y2 in boxes.tolist()
    ]
    return {
        'images': [
            {'id': image, 'file_name': name, 'height': height, 'width': width}
            for image, (name, (height, width), _) in enumerate(tiles, 1)
        ],
        'annotations': [{'id': i, **each} for i, each in enumerate(annotations, 1)],
        'categories': [{'id': 1, 'name': 'tree'}],
    }


if __name__ == '__main__':
    main()
