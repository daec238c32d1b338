"""Detections from exported files, ONNX and StableHLO, compared with the model itself.

    python benchmarks/exported_files.py
    python benchmarks/exported_files.py --canvas 800x1344
    python benchmarks/exported_files.py --workdir work_dirs/mine

All take a batch of uint8 images on a canvas and give detections; they run in turns, in
one process. Without --workdir the weights are random, and all scores are too low.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Callable

import jax
import numpy as np
import timing

from atss_jax.commands.command_line import canvas
from atss_jax.config import build_experiment, load_config
from atss_jax.evaluation.run import make_predict_step
from atss_jax.inference import export
from atss_jax.inference.onnx_file.runtime import library, open_session, runner
from atss_jax.inference.onnx_file.write import serialize
from atss_jax.training.state import init_variables
from atss_jax.training.trained_model import TrainedModel, load_trained


def model_of(flags: argparse.Namespace) -> TrainedModel:
    """The trained model of --workdir, or that of --config with random weights."""
    if flags.workdir:
        return load_trained(flags.workdir)
    overrides = {'model.pretrained': None, 'test_cfg.score_thr': flags.score_thr}
    experiment = build_experiment(load_config(flags.config, overrides))
    variables = jax.device_get(init_variables(experiment.model, 0))
    count = experiment.model.bbox_head.num_classes
    return TrainedModel(experiment, variables, tuple(map(str, range(count))))


def batch_of(flags: argparse.Namespace) -> dict[str, np.ndarray]:
    """Images of noise that fill the canvas."""
    random, size = np.random.default_rng(0), flags.batch_size
    return {
        'image': random.integers(256, size=(size, *flags.canvas, 3), dtype=np.uint8),
        'image_size': np.tile(np.array(flags.canvas, np.int32), (size, 1)),
        'scale': np.ones((size, 2), np.float32),
    }


def measure(
    flags: argparse.Namespace, trained: TrainedModel
) -> tuple[dict[str, float], list[str]]:
    """Seconds that each needs for a batch; lines about the files."""
    experiment, batch = trained.experiment, batch_of(flags)
    normalizer = experiment.data['test'].normalizer
    step = make_predict_step(experiment.model, normalizer, experiment.detect)
    step = jax.jit(step).lower(trained.variables, batch).compile()
    variables = jax.device_put(trained.variables)
    with tempfile.TemporaryDirectory() as folder:
        run_onnx, onnx_note = onnx_file(os.path.join(folder, 'a.onnx'), trained)
        path = os.path.join(folder, 'a.stablehlo')
        run_stablehlo, stablehlo_note = stablehlo_file(path, trained, batch)
    calls = {
        'the model in JAX': lambda: jax.device_get(step(variables, batch)),
        'StableHLO': lambda: jax.device_get(run_stablehlo(batch)),
        'onnxruntime': lambda: run_onnx(batch),
    }
    # Threads of onnxruntime wait for work for a while, and would slow JAX.
    seconds = timing.interleaved(calls, flags.repeats, pause=0.3)
    return seconds, [onnx_note, stablehlo_note]


def onnx_file(path: str, trained: TrainedModel) -> tuple[Callable, str]:
    """Writes and opens an ONNX file; gives how to run it, and a line about it."""
    began = time.perf_counter()
    with open(path, 'wb') as file:
        file.write(serialize(trained, heads=False))
    written = time.perf_counter()
    run = runner(open_session(pathlib.Path(path), 'cpu'))
    return run, note('ONNX', path, began, written)


def stablehlo_file(
    path: str, trained: TrainedModel, batch: dict[str, np.ndarray]
) -> tuple[Callable, str]:
    """Writes a file for cpu, cuda and tpu, and compiles it; as `onnx_file`."""
    began = time.perf_counter()
    export.write(path, trained)
    written = time.perf_counter()
    run = jax.jit(export.read(path).step).lower(batch).compile()
    return run, note('StableHLO', path, began, written)


def note(kind: str, path: str, began: float, written: float) -> str:
    """A line about a file that was opened now."""
    opened, size = time.perf_counter() - written, os.path.getsize(path) / 2**20
    writing = written - began
    return (
        f'{kind}: {size:.1f} MiB, written in {writing:.1f} s, opened in {opened:.1f} s'
    )


def main() -> int:
    """Reads the flags, measures, prints."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--config', default='configs/atss_r50_1x.py')
    parser.add_argument('--workdir', help='a run, in place of --config')
    parser.add_argument('--canvas', type=canvas, default=(256, 320))
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--score_thr', type=float, default=0.05, help='with --config')
    parser.add_argument('--repeats', type=int, default=7)
    flags = parser.parse_args()
    try:
        trained = model_of(flags)
        seconds, notes = measure(flags, trained)
    except (ValueError, OSError) as error:
        print(f'exported_files.py: {error}', file=sys.stderr)
        return 1
    height, width = flags.canvas
    version = library('onnxruntime').__version__
    print(f'{timing.machine()}; onnxruntime {version}, jax {jax.__version__}')
    print(f'{flags.workdir or flags.config}: {flags.batch_size} x {height}x{width}')
    print(*notes, sep='\n', end='\n\n')
    first = next(iter(seconds.values()))
    rows = [
        [name, timing.milliseconds(value), f'{value / first:.2f}']
        for name, value in seconds.items()
    ]
    print(timing.table(('', 'time', 'ratio'), rows))
    return 0


if __name__ == '__main__':
    sys.exit(main())
