"""How many pictures a core decodes, resizes and pads in a second, from a config's data.

    python benchmarks/input_speed.py --config=configs/atss_r50_1x.py

One process and one thread build training batches; only its processor time counts, so
that other work on the machine hardly matters. Pictures read for the first time wait for
the disk, which is not counted: wall time is printed beside it. What one core does goes
into `benchmarks/scaling_model.py --images_per_s_core`.
"""

import argparse
import sys
import time

import cv2

from atss_jax.config import build_experiment, load_config, parse_overrides
from atss_jax.data.loader import TrainBatches
from atss_jax.data.plan import TrainPlan
from atss_jax.evaluation.build import open_sources


def measure(
    config_file: str, overrides: list[str], batches: int
) -> tuple[int, float, float]:
    """Builds batches; gives pictures, processor seconds and wall seconds."""
    experiment = build_experiment(load_config(config_file, parse_overrides(overrides)))
    source = open_sources(experiment, ('train',))['train']
    pipeline = experiment.data['train'].pipeline
    size = experiment.samples_per_gpu
    canvases = pipeline.all_canvases()
    plan = TrainPlan(pipeline.canvas_index(source), canvases, size, experiment.seed)
    build = TrainBatches(source, plan, pipeline, (0, size))
    build(0)  # loads what the first batch alone loads
    wall, processor = time.perf_counter(), time.process_time()
    for step in range(1, batches + 1):
        build(step)
    processor = time.process_time() - processor
    return batches * size, processor, time.perf_counter() - wall


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a file in configs/')
    parser.add_argument('--batches', type=int, default=50, help='how many to build')
    flags, overrides = parser.parse_known_args()
    cv2.setNumThreads(1)
    try:
        if flags.batches < 1:
            raise ValueError(f'--batches={flags.batches}: expected at least 1')
        pictures, processor, wall = measure(flags.config, overrides, flags.batches)
    except (ValueError, OSError) as error:
        print(f'input_speed.py: {error}', file=sys.stderr)
        return 1
    print(
        f'{pictures} pictures: {pictures / processor:.0f} a second and core '
        f'({processor:.1f} s of processor time, {wall:.1f} s of wall time)'
    )
    return 0


if __name__ == '__main__':
    sys.exit(main())
