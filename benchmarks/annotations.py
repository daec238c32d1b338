"""Reading an annotation file of the size of COCO's instances_train2017.json.

    python benchmarks/annotations.py
    python benchmarks/annotations.py --images 27000 --rounds 1
    python benchmarks/annotations.py --images 217500 --objects 15 --no_masks --rounds 1
    python benchmarks/annotations.py --write=large.json

The file is generated: random boxes and polygons, with 3 MB for 1000 images as in COCO.
The third line is an eighth of Objects365, which has no masks.
It is read by the reader that builds every record and checks it, as before msgspec; for
the first time; and again, from what the first time kept. Each is a process of its own;
they run in turns. All give the same arrays.
"""

import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np
import timing

from atss_jax.commands.command_line import positive
from atss_jax.data.coco import annotation_file

_LEAST_KEPT = 67  # MB, of which `kept_columns` keeps what was read
_POLYGONS = 5000  # that annotations choose from
_WAYS = ('each record checked', 'first', 'again')


def write(path: pathlib.Path, images: int, objects: int, with_masks: bool) -> None:
    """Writes a COCO file of this many images with this many objects each."""
    random = np.random.default_rng(0)
    polygons = [
        f'"segmentation": [{random.uniform(0, 640, 2 * points).round(2).tolist()}], '
        if with_masks
        else ''
        for points in random.integers(4, 34, _POLYGONS)
    ]
    with open(path, 'w') as file:
        file.write('{"info": {"year": 2017}, "images": [')
        for start in range(0, images, 1000):
            ids = range(start + 1, min(start + 1000, images) + 1)
            file.write(', ' * (start > 0) + ', '.join(map(_image, ids)))
        file.write('], "annotations": [')
        for start in range(0, images, 1000):
            ids = np.arange(start, min(start + 1000, images)).repeat(objects) + 1
            file.write(', ' * (start > 0))
            file.write(_annotations(random, ids, start * objects + 1, polygons))
        file.write('], "categories": [')
        file.write(', '.join(f'{{"id": {i}, "name": "class {i}"}}' for i in range(80)))
        file.write(']}')


def _image(image_id):
    name = f'{image_id:012d}.jpg'
    return (
        f'{{"license": 3, "file_name": "{name}", "coco_url": '
        f'"http://images.cocodataset.org/train2017/{name}", "height": 480, "width": '
        f'640, "date_captured": "2013-11-14 16:28:13", "id": {image_id}}}'
    )


def _annotations(random, image_ids, first_id, polygons):
    count = len(image_ids)
    columns = (
        image_ids.tolist(),
        random.uniform(1, 300, (count, 4)).round(2).tolist(),
        random.integers(0, _POLYGONS, count).tolist(),
        random.integers(0, 80, count).tolist(),
    )
    return ', '.join(
        f'{{{polygons[polygon]}"area": {box[2] * box[3] * 0.7}, "iscrowd": 0, '
        f'"image_id": {image_id}, "bbox": {box}, "category_id": {label}, "id": {id_}}}'
        for id_, (image_id, box, polygon, label) in enumerate(
            zip(*columns, strict=True), start=first_id
        )
    )


def read(path: str, way: str) -> dict[str, object]:
    """Reads the file once: seconds, processor seconds, MB at most, digest of all."""
    imported = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, processor = time.perf_counter(), time.process_time()
    if way == _WAYS[0]:
        table = annotation_file.read_with_checks(path)
    else:
        table = annotation_file.read(path)
    seconds = time.perf_counter() - began
    processor = time.process_time() - processor
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    digest = hashlib.sha256(repr((table.file_names, table.categories)).encode())
    for column in vars(table).values():
        if isinstance(column, np.ndarray):
            digest.update(f'{column.dtype} {column.shape}'.encode())
            digest.update(np.ascontiguousarray(column))
    return {
        'seconds': seconds,
        'processor': processor,
        'memory': (peak - imported) / 1024,
        'digest': digest.hexdigest(),
    }


def measure(path: pathlib.Path, rounds: int) -> dict[str, list[dict]]:
    """What each way needed, round by round; `first` begins with an empty cache.

    Raises:
        ValueError: the tables differ.
    """
    measured = {way: [] for way in _WAYS}
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as cache:
            for way, results in measured.items():
                command = [sys.executable, __file__, f'--read={path}', f'--way={way}']
                done = subprocess.run(
                    command,
                    check=True,
                    capture_output=True,
                    text=True,
                    env=os.environ | {'ATSS_JAX_CACHE': cache},
                )
                results.append(json.loads(done.stdout))
    if len({r['digest'] for results in measured.values() for r in results}) != 1:
        raise ValueError('the tables differ')
    return measured


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--images', type=positive, default=117266)
    parser.add_argument('--objects', type=positive, default=7, help='per image')
    parser.add_argument('--no_masks', action='store_true')
    parser.add_argument('--rounds', type=positive, default=3)
    parser.add_argument('--write', help='only write the file, to this path')
    parser.add_argument('--read', help='only read this file, once, and print JSON')
    parser.add_argument('--way', choices=_WAYS, default='first', help='with --read')
    flags = parser.parse_args()
    size = flags.images, flags.objects, not flags.no_masks
    if flags.write:
        write(pathlib.Path(flags.write), *size)
        return 0
    if flags.read:
        print(json.dumps(read(flags.read, flags.way)))
        return 0
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / 'annotations.json'
        write(path, *size)
        megabytes = path.stat().st_size / 1e6
        measured = measure(path, flags.rounds)
    print(
        f'{timing.machine()}; {megabytes:.0f} MB, {flags.images} images, '
        f'{flags.images * flags.objects} annotations\n'
    )
    print(timing.resources(measured))
    if megabytes < _LEAST_KEPT:
        print(f'\nNothing is kept of files below {_LEAST_KEPT} MB: again is first')
    return 0


if __name__ == '__main__':
    sys.exit(main())
