"""What decoding large JPEGs at a fraction of their size saves, and how pixels differ.

    python benchmarks/input_photographs.py --images=IMAGES

Photographs of 12 and of 24 megapixels are made by enlarging the images of a folder of
JPEGs. Each is loaded to 800 x 1333 as by the R50 recipe, with `data.reduced_decoding`
and without, in turns. Times are processor times of one thread. Pixels are compared
without mirroring, from 0 to 255, in the image alone, not in its padding.
"""

import argparse
import dataclasses
import os
import pathlib
import statistics
import sys
import tempfile

import cv2
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.data.batch import load_row  # noqa: E402
from atss_jax.data.image_file import reduction_for  # noqa: E402
from atss_jax.data.slots import keep_freed_memory  # noqa: E402
from benchmarks import input_data, timing  # noqa: E402
from benchmarks.input import RECIPE, train_batches  # noqa: E402
from benchmarks.input_work import processor_seconds  # noqa: E402

SIZES = ((3000, 4000), (4000, 6000))
_QUALITY = 90


def write_photographs(
    images: pathlib.Path, folder: pathlib.Path, size: tuple[int, int], count: int
) -> None:
    """Enlarges the first images of a folder to `size`, either way round.

    Raises:
        ValueError: there are no images in the folder.
    """
    files = [f for f in sorted(images.glob('*')) if f.suffix in input_data.SUFFIXES]
    if not files:
        raise ValueError(f'{images}: no images in it')
    for file in files[:count]:
        image = cv2.imread(str(file))
        height, width = size if image.shape[0] <= image.shape[1] else size[::-1]
        large = cv2.resize(image, (width, height), interpolation=cv2.INTER_CUBIC)
        options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
        cv2.imwrite(str(folder / file.name), large, options)


def compare(folder: pathlib.Path, rounds: int) -> list[list[str]]:
    """Rows of the table for the photographs in a folder: whole, and reduced."""
    annotations = folder / 'annotations.json'
    input_data.write_annotations(folder, 10**6, annotations)
    data = {
        'data.train.ann_file': str(annotations),
        'data.train.img_prefix': str(folder),
        'model.bbox_head.num_classes': 1,
    }
    batches = train_batches(RECIPE, data, 1)
    source, plain = batches.source, batches.pipeline
    reduced = dataclasses.replace(plain, reduced_decoding=True)
    canvases = [
        batches.pipeline.all_canvases()[index]
        for index in batches.pipeline.canvas_index(source)
    ]

    def load_all(pipeline):
        for index, canvas in enumerate(canvases):
            load_row(source, index, canvas, pipeline)

    load_all(plain)
    seconds = {'whole': [], 'reduced': []}
    for _ in range(rounds):
        seconds['whole'].append(processor_seconds(lambda: load_all(plain)))
        seconds['reduced'].append(processor_seconds(lambda: load_all(reduced)))
    median = {name: statistics.median(x) / len(canvases) for name, x in seconds.items()}
    differences = [
        _difference(source, index, canvas, plain, reduced)
        for index, canvas in enumerate(canvases)
    ]
    reductions = {
        reduction_for(record.size, plain.whole(0, record).size)
        for record in map(source.records.__getitem__, range(len(canvases)))
    }
    mean, largest = np.mean(differences, axis=0)
    size = statistics.median(os.path.getsize(x) for x in source.records.file_names)
    height, width = source.records[0].size
    name = f'{height * width / 1e6:.0f} megapixels, {size / 1e6:.1f} MB'
    return [
        [
            name,
            f'1/{max(reductions)}',
            *(f'{1e3 * median[way]:.1f} ms' for way in median),
            *(f'{1 / median[way]:.0f}' for way in median),
            f'{median["whole"] / median["reduced"]:.2f}',
            f'{mean:.2f}',
            f'{largest:.1f}',
        ]
    ]


def _difference(source, index, canvas, plain, reduced):
    """Mean, and 99.9th percentile, of the absolute differences of pixels."""
    rows = [load_row(source, index, canvas, way) for way in (plain, reduced)]
    height, width = rows[0]['image_size']
    one, other = (row['image'][:height, :width].astype(int) for row in rows)
    difference = np.abs(one - other)
    return difference.mean(), np.percentile(difference, 99.9)


def _parser():
    parser = timing.new_parser(__doc__)
    add = parser.add_argument
    add('--images', required=True, help='folder of JPEGs to enlarge')
    add('--count', type=int, default=16, help='number of images')
    add('--rounds', type=int, default=5, help='number of turns')
    return parser


def run(flags: argparse.Namespace) -> None:
    """Makes photographs of each size and prints the table."""
    rows = []
    for size in SIZES:
        with tempfile.TemporaryDirectory() as name:
            folder = pathlib.Path(name)
            write_photographs(pathlib.Path(flags.images), folder, size, flags.count)
            rows += compare(folder, flags.rounds)
    header = ['photograph', 'decoded at', 'whole', 'reduced', 'whole, images/s']
    header += ['reduced, images/s', 'times as fast', 'mean difference', '99.9 %']
    print(timing.table(header, rows))


def main() -> int:
    """Reads the flags, measures, prints."""
    flags = _parser().parse_args()
    cv2.setNumThreads(1)
    keep_freed_memory()
    print(f'{timing.machine()}; load {os.getloadavg()[0]:.1f}\n')
    try:
        run(flags)
    except (ValueError, OSError) as error:
        print(f'input_photographs.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
