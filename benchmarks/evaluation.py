"""The evaluation loop, compared with forward pass and post-processing alone.

    python benchmarks/evaluation.py
    python benchmarks/evaluation.py --canvas 800x1344 --images 16

The loop decodes, resizes and evaluates images of the canvas's size as `eval.py` does,
except the scoring, which `scoring.py` measures; the compiled program alone works on one
batch that is already on the device. They run in turns.
"""

import argparse
import pathlib
import sys
import tempfile

import jax
import numpy as np
import timing
from images import write_data

from atss_jax.commands.command_line import canvas
from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import open_sources
from atss_jax.distributed import devices
from atss_jax.evaluation.run import make_evaluator, make_predict_step
from atss_jax.training.state import init_variables


def overrides(flags: argparse.Namespace, folder: pathlib.Path) -> dict[str, object]:
    """Config fields for the generated images."""
    scale = max(flags.canvas), min(flags.canvas)
    fields = {
        'model.pretrained': None,
        'model.bbox_head.num_classes': 1,
        'data.samples_per_gpu': flags.batch_size,
        'data.workers_per_gpu': flags.workers,
    }
    for split in ('train', 'val', 'test'):
        fields[f'data.{split}.ann_file'] = str(folder / 'data.json')
        fields[f'data.{split}.img_prefix'] = str(folder)
        fields[f'data.{split}.pipeline.img_scale'] = scale
    return fields


def measure(flags: argparse.Namespace, folder: pathlib.Path) -> dict[str, float]:
    """Seconds that the loop and the program alone need for all images."""
    write_data(folder, flags.canvas, flags.images)
    experiment = build_experiment(load_config(flags.config, overrides(flags, folder)))
    source = open_sources(experiment, ('val',))['val']
    evaluator = make_evaluator(experiment, source, 'val')
    variables = devices.replicate(init_variables(experiment.model, 0))
    normalizer, mode = experiment.data['val'].normalizer, experiment.parallel
    step = make_predict_step(experiment.model, normalizer, experiment.detect)
    step, size = devices.map_rows(step, mode), flags.batch_size
    batch = {
        'image': np.zeros((size, *flags.canvas, 3), np.uint8),
        'image_size': np.tile(np.array(flags.canvas, np.int32), (size, 1)),
        'scale': np.ones((size, 2), np.float32),
    }
    batch = jax.device_put(devices.shard_rows(batch, mode))
    count = -(-flags.images // size)

    def alone():
        jax.block_until_ready([step(variables, batch) for _ in range(count)])

    calls = {'loop': lambda: evaluator.detections(variables), 'alone': alone}
    return timing.interleaved(calls, flags.repeats)


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--config', default='configs/atss_r50_1x.py')
    parser.add_argument('--canvas', type=canvas, default=(256, 320))
    parser.add_argument('--images', type=int, default=96)
    parser.add_argument('--batch_size', type=int, default=2)
    parser.add_argument('--workers', type=int, default=0, help='0: threads')
    parser.add_argument('--repeats', type=int, default=3)
    flags = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            seconds = measure(flags, pathlib.Path(folder))
    except (ValueError, OSError) as error:
        print(f'evaluation.py: {error}', file=sys.stderr)
        return 1
    height, width = flags.canvas
    print(f'{timing.machine()}; {flags.config}, {flags.images} images of ')
    print(f'{height}x{width} in batches of {flags.batch_size}\n')
    ratio = seconds['loop'] / seconds['alone']
    rows = [
        ['the loop of eval.py', f'{seconds["loop"]:.1f} s', f'{ratio:.2f}'],
        ['forward and post-processing alone', f'{seconds["alone"]:.1f} s', '1'],
    ]
    print(timing.table(('', 'time', 'ratio'), rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
