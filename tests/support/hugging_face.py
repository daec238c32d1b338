"""Data sets with a column `objects`: folders with metadata.jsonl, rows of COCO's."""

import json
import os
import pathlib
import subprocess
import sys

import cv2
import numpy as np

from tests.conftest import ROOT

CLASSES = ['dog', 'cat']
SIZES = {'a.png': (40, 60), 'b.png': (50, 30), 'c.png': (40, 40)}
"""Height, width of the images of `write_folder`."""
ROWS = [
    {
        'file_name': 'a.png',
        'image_id': 7,
        'objects': {
            'bbox': [[1, 2, 10, 20], [0.5, 0, 4, 5.25]],
            'category': [0, 1],
            'area': [100.5, None],
            'iscrowd': [1, 0],
            'id': [11, 12],
        },
    },
    {'file_name': 'b.png', 'image_id': 3, 'objects': {'bbox': [], 'category': []}},
    {
        'file_name': 'c.png',
        'image_id': 5,
        'objects': {'bbox': [[3, 4, 30, 31]], 'category': [0], 'id': [13]},
    },
]


def encoded(name: str) -> bytes:
    """A PNG of noise of the size of this name."""
    random = np.random.default_rng(len(name) + ord(name[0]))
    noise = random.integers(0, 256, (*SIZES[name], 3)).astype(np.uint8)
    return cv2.imencode('.png', noise)[1].tobytes()


def write_folder(folder: pathlib.Path, rows: list, names: bool = True) -> pathlib.Path:
    """Images, `metadata.jsonl` with a line for each row (texts as they are), names."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SIZES:
        (folder / name).write_bytes(encoded(name))
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    (folder / 'metadata.jsonl').write_text('\n'.join(lines) + '\n')
    if names:
        (folder / 'classes.txt').write_text('\n'.join(CLASSES) + '\n')
    return folder


def rows_of_coco(ann_file: pathlib.Path) -> tuple[list[dict], list[str]]:
    """The rows of a COCO file with categories as indices, and their names."""
    content = json.loads(ann_file.read_text())
    categories = content['categories']
    index_of = {each['id']: index for index, each in enumerate(categories)}
    rows = {
        image['id']: {
            'file_name': image['file_name'],
            'image_id': image['id'],
            'width': image['width'],
            'height': image['height'],
            'objects': {k: [] for k in ('id', 'bbox', 'category', 'area', 'iscrowd')},
        }
        for image in content['images']
    }
    for each in content['annotations']:
        objects = rows[each['image_id']]['objects']
        objects['id'].append(each['id'])
        objects['bbox'].append([float(number) for number in each['bbox']])
        objects['category'].append(index_of[each['category_id']])
        objects['area'].append(float(each['area']))
        objects['iscrowd'].append(each.get('iscrowd', 0))
    return list(rows.values()), [each['name'] for each in categories]


WORKERS = """
import hashlib, sys
from atss_jax.data.batch import Pipeline
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.loader import prefetch
from tests.support.batches import train_batches

def main():
    source = AutoDataset(sys.argv[1], 'train', min_size=1)
    pipeline = Pipeline((64, 32), flip_ratio=0.5, max_boxes=100)
    for workers in (0, 2):
        digest = hashlib.sha256()
        batches = train_batches(source, pipeline=pipeline)
        for batch in prefetch(batches, 0, 6, workers=workers):
            for name in sorted(batch):
                digest.update(name.encode() + batch[name].tobytes())
        print(digest.hexdigest())

if __name__ == '__main__':
    main()
"""
"""A program that prints a digest of the first batches from 0 and from 2 workers."""


def digests_of_workers(path: pathlib.Path, scratch: pathlib.Path) -> list[str]:
    """The digests of the first batches of the data set, from 0 and from 2 workers."""
    script = scratch / 'workers.py'
    script.write_text(WORKERS)
    done = subprocess.run(
        [sys.executable, str(script), str(path)],
        cwd=ROOT,
        env={**os.environ, 'PYTHONPATH': str(ROOT), 'XLA_FLAGS': ''},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()
