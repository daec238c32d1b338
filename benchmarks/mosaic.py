"""Joins the images of a data set into large ones: small objects in large images.

    python benchmarks/mosaic.py data/bccd/annotations/instances_val.json \
        data/bccd/images mosaics --columns=4 --rows=4

Images of the most frequent size are put side by side, as many as fill whole grids;
their boxes move with them.
"""

import argparse
import collections
import json
import pathlib

import cv2
import numpy as np

from atss_jax.commands.command_line import positive
from atss_jax.data import image_file
from atss_jax.files.atomic import write_json


def main() -> None:
    """Writes `OUT/annotations/instances_val.json` and `OUT/images`."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('ann_file', type=pathlib.Path, help='COCO annotations')
    parser.add_argument('images', type=pathlib.Path, help='folder of their images')
    parser.add_argument('out', type=pathlib.Path, help='folder to write')
    parser.add_argument('--columns', type=positive, default=4, help='default: 4')
    parser.add_argument('--rows', type=positive, default=4, help='default: 4')
    flags = parser.parse_args()
    content = json.loads(flags.ann_file.read_text())
    (flags.out / 'images').mkdir(parents=True)
    (flags.out / 'annotations').mkdir()
    joined = _join(
        content, flags.images, flags.out / 'images', flags.columns, flags.rows
    )
    path = flags.out / 'annotations' / 'instances_val.json'
    write_json(path, joined)
    print(
        f'{path}: {len(joined["images"])} images, {len(joined["annotations"])} objects'
    )


def _join(content, folder, out, columns, rows):
    """The COCO dict of the large images, which are written to `out`."""
    sizes = collections.Counter((i['height'], i['width']) for i in content['images'])
    (height, width), _ = sizes.most_common(1)[0]
    same = [
        image
        for image in content['images']
        if (image['height'], image['width']) == (height, width)
    ]
    by_image = collections.defaultdict(list)
    for annotation in content['annotations']:
        by_image[annotation['image_id']].append(annotation)
    images, annotations = [], []
    for first in range(0, len(same) - columns * rows + 1, columns * rows):
        large = np.zeros((rows * height, columns * width, 3), np.uint8)
        image_id = len(images) + 1
        for place, image in enumerate(same[first : first + columns * rows]):
            top, left = place // columns * height, place % columns * width
            pixels = image_file.read(folder / image['file_name'])
            large[top : top + height, left : left + width] = pixels
            for annotation in by_image[image['id']]:
                x, y, *sides = annotation['bbox']
                annotations.append(
                    annotation
                    | {'id': len(annotations) + 1, 'image_id': image_id}
                    | {'bbox': [x + left, y + top, *sides], 'segmentation': []}
                )
        name = f'{image_id}.png'
        cv2.imwrite(str(out / name), large[..., ::-1])
        images.append(
            {'id': image_id, 'file_name': name}
            | {'height': large.shape[0], 'width': large.shape[1]}
        )
    return {
        'images': images,
        'annotations': annotations,
        'categories': content['categories'],
    }


if __name__ == '__main__':
    main()
