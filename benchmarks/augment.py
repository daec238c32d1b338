"""What each transform of augmentation costs the loader, next to the plain pipeline.

    python benchmarks/augment.py
    python benchmarks/augment.py --images=IMAGES --rounds=9

Loads the same batches of the R50 recipe, to fit 1333 x 800, with each transform alone
and with all of them, in turns. Times are processor times of one thread, so that other
work on the machine and the disk hardly matter; each variant is compared with the plain
pipeline in the same round, and the median of the ratios is given. Images are generated,
640 x 480, or those of `--images`.
"""

import argparse
import dataclasses
import pathlib
import statistics
import sys
import tempfile

import cv2

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.config import build_experiment, load_config  # noqa: E402
from atss_jax.data.loader import TrainBatches  # noqa: E402
from benchmarks import input_data, timing  # noqa: E402
from benchmarks.input import RECIPE, train_batches  # noqa: E402
from benchmarks.input_work import processor_seconds  # noqa: E402

_MOSAIC = {'type': 'Mosaic', 'img_scale': (640, 640)}
_AFFINE = {'type': 'RandomAffine', 'border': (-320, -320)}
_MIXUP = {'type': 'MixUp', 'img_scale': (640, 640)}
_HSV = {'type': 'YOLOXHSVRandomAug'}
_FUNCTION = {'type': 'UserFunction', 'function': 'benchmarks.augment:unchanged'}
BEFORE, AFTER = 'before_resize', 'after_flip'
PLAIN = 'plain: resize, flip'
VARIANTS = {
    PLAIN: {},
    'flips in three directions': {
        'flip_direction': ('horizontal', 'vertical', 'diagonal')
    },
    'PhotoMetricDistortion before the resize': {
        BEFORE: ({'type': 'PhotoMetricDistortion'},)
    },
    'PhotoMetricDistortion after the flip': {
        AFTER: ({'type': 'PhotoMetricDistortion'},)
    },
    'YOLOXHSVRandomAug before the resize': {BEFORE: (_HSV,)},
    'YOLOXHSVRandomAug after the flip': {AFTER: (_HSV,)},
    'RandomAffine before the resize': {BEFORE: ({'type': 'RandomAffine'},)},
    'RandomAffine after the flip': {AFTER: ({'type': 'RandomAffine'},)},
    'MixUp before the resize': {BEFORE: (_MIXUP,)},
    'Mosaic, 1280 x 1280 to 800 x 800': {BEFORE: (_MOSAIC,)},
    'Mosaic, RandomAffine to 640 x 640': {BEFORE: (_MOSAIC, _AFFINE)},
    'Mosaic, RandomAffine, MixUp, YOLOXHSVRandomAug': {
        BEFORE: (_MOSAIC, _AFFINE, _MIXUP, _HSV)
    },
    'a function of yours that changes nothing': {AFTER: (_FUNCTION,)},
}


def unchanged(image, boxes, labels, rng):
    """A function as `UserFunction` calls it: what the call itself costs."""
    return image, boxes, labels


def batches_of(plain: TrainBatches, fields: dict) -> TrainBatches:
    """The training batches with other transforms."""
    overrides = {f'data.train.pipeline.{name}': x for name, x in fields.items()}
    experiment = build_experiment(load_config(RECIPE, overrides))
    pipeline = dataclasses.replace(
        experiment.data['train'].pipeline, max_boxes=plain.pipeline.max_boxes
    )
    plan = dataclasses.replace(
        plain.plan,
        canvas_index=pipeline.canvas_index(plain.source),
        canvases=pipeline.all_canvases(),
    )
    return dataclasses.replace(plain, pipeline=pipeline, plan=plan)


def seconds_per_image(batches: TrainBatches, steps: range) -> float:
    """Processor time per image of these batches."""
    seconds = sum(processor_seconds(lambda step=step: batches(step)) for step in steps)
    return seconds / (len(steps) * batches.plan.batch_size)


def measure(plain: TrainBatches, rounds: int, steps: int) -> list[list[str]]:
    """The rows of the table."""
    variants = {name: batches_of(plain, x) for name, x in VARIANTS.items()}
    for batches in variants.values():
        batches(0)  # does the work that only the first batch causes
    taken = {name: [] for name in variants}
    for number in range(rounds):
        # The same batches for all variants, others in each round.
        chosen = range(number * steps, (number + 1) * steps)
        for name, batches in variants.items():
            taken[name].append(seconds_per_image(batches, chosen))
    rows = []
    for name, seconds in taken.items():
        ratios = [x / base for x, base in zip(seconds, taken[PLAIN], strict=True)]
        median = statistics.median(seconds)
        rows.append(
            [
                name,
                f'{1e3 * median:.1f} ms',
                f'{1 / median:.0f}',
                f'{statistics.median(ratios):.2f}',
            ]
        )
    return rows


def _number(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, at least 1')
    return int(text)


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    add = parser.add_argument
    add('--images', help='folder of JPEGs (default: generated images)')
    add('--count', type=_number, default=64, help='number of images')
    add('--batch_size', type=_number, default=8, help='images in a batch')
    add('--rounds', type=_number, default=9, help='how often all variants are timed')
    add('--steps', type=_number, default=4, help='batches of a variant in a round')
    flags = parser.parse_args()
    cv2.setNumThreads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(flags.images or temporary)
        annotations = pathlib.Path(temporary) / 'annotations.json'
        try:
            if not flags.images:
                input_data.write_images(folder, flags.count, input_data.SIZE)
            input_data.write_annotations(folder, flags.count, annotations)
            data = {
                'data.train.ann_file': str(annotations),
                'data.train.img_prefix': str(folder),
                'model.bbox_head.num_classes': 1,
            }
            plain = train_batches(RECIPE, data, flags.batch_size)
            rows = measure(plain, flags.rounds, flags.steps)
        except (ValueError, OSError) as error:
            print(f'augment.py: {error}', file=sys.stderr)
            return 1
    print(f'{timing.machine()}; {len(plain.source.records)} images')
    header = ['pipeline', 'per image', 'images per second and core', 'time / plain']
    print(timing.table(header, rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
