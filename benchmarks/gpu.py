"""Training and inference on one GPU: ours, torchvision's FCOS and a matrix product.

    python benchmarks/gpu.py --json=gpu.json

Measures images per second, share of the operations per second that a large matrix
product reaches (MFU), memory and time to the first step, for the training step of the
R50 recipe and for the detector with NMS, with all images on the device. Where torch and
torchvision are installed, also for torchvision's FCOS on the same images: AMP, channels
last, with and without torch.compile. Each measurement is a process of its own, one
after the other; one that runs out of memory is marked in the table, and the others
continue. To check that everything works on a CPU:

    python benchmarks/gpu.py --canvas=64x96 --batches 2 --depth=18 --dtype=float32
        --matmul=512 --steps=1 --repeats=1

Operations are multiplications and additions of convolutions and matrix products, 2 for
each multiply-add. Training counts the forward pass, and backward what the trained parts
need.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from benchmarks.gpu_work import Job  # noqa: E402
from benchmarks.timing import machine, table  # noqa: E402

OURS, EAGER, COMPILED = 'atss-jax', 'torchvision', 'torchvision, compiled'
MODULES = {
    OURS: 'benchmarks.gpu_jax',
    EAGER: 'benchmarks.peers.torchvision_fcos',
    COMPILED: 'benchmarks.peers.torchvision_fcos',
}
WORK = ('training', 'inference')


def _canvas(text):
    sides = text.split('x')
    if len(sides) != 2 or not all(side.isdecimal() for side in sides):
        raise argparse.ArgumentTypeError(
            f'{text!r}: expected a canvas such as 800x1344'
        )
    height, width = map(int, sides)
    if height % 32 or width % 32 or not height or not width:
        raise argparse.ArgumentTypeError(f'{text!r}: expected multiples of 32')
    return height, width


def _count(text):
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text!r}: expected a number, at least 1')
    return int(text)


def _parser():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add('--batches', type=_count, nargs='+', default=[8, 16, 32, 64])
    add('--work', nargs='+', choices=WORK, default=list(WORK))
    add('--canvas', type=_canvas, default=(800, 1344), help='height x width')
    add('--depth', type=int, choices=(18, 34, 50, 101), default=50)
    add('--dtype', choices=('bfloat16', 'float32'), default='bfloat16')
    add('--parallel', choices=('pmap', 'shard_map'), default='pmap', help='our mapping')
    add(
        '--repeats',
        type=_count,
        default=5,
        help='number of timings, of which the median counts',
    )
    add(
        '--steps',
        type=_count,
        default=10,
        help='number of steps that are timed together',
    )
    add(
        '--matmul',
        type=_count,
        default=8192,
        help='side of the matrices of the matrix product',
    )
    add('--no_torch', action='store_true', help='do not measure torchvision')
    add('--no_compile', action='store_true', help='torchvision without torch.compile')
    add('--torch_python', default=sys.executable, help='the Python that has torch')
    add(
        '--profile',
        metavar='DIR',
        help='folder for traces of our steps',
    )
    add('--json', metavar='FILE', help='all results, written after each')
    return parser


def environment() -> dict[str, str]:
    """The variables of a process that uses the first device alone, with its memory."""
    devices = os.environ.get('CUDA_VISIBLE_DEVICES', '0').split(',')
    paths = [str(ROOT), os.environ.get('PYTHONPATH', '')]
    own = {
        'CUDA_VISIBLE_DEVICES': devices[0],
        'PYTHONPATH': os.pathsep.join(filter(None, paths)),
        'XLA_PYTHON_CLIENT_MEM_FRACTION': '0.95',
        # So that the time of the first step includes compiling.
        'TORCHINDUCTOR_FORCE_DISABLE_CACHES': '1',
    }
    return {'JAX_ENABLE_COMPILATION_CACHE': 'false', **os.environ, **own}


def run(program: str, job: Job, python: str) -> dict:
    """Runs a job in a process of its own; {'error': ...} where it fails."""
    command = [python, '-m', MODULES[program], json.dumps(dataclasses.asdict(job))]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        return {'error': f'failed with status {done.returncode}'}
    return json.loads(done.stdout.splitlines()[-1])


def _without_torch(python):
    """Why a Python cannot import torch and torchvision; None if it can."""
    command = [python, '-c', 'import torch, torchvision']
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    except OSError as error:
        return str(error)
    return done.stderr.strip().rpartition('\n')[2] if done.returncode else None


def programs(flags: argparse.Namespace) -> list[str]:
    """The programs to measure: torchvision too, if it is selected and installed."""
    if flags.no_torch:
        return [OURS]
    problem = _without_torch(flags.torch_python)
    if problem is not None:
        print(
            f'measuring atss-jax only: torchvision cannot be imported by '
            f'{flags.torch_python} ({problem}); pip install torch torchvision, or pass '
            '--torch_python',
            file=sys.stderr,
        )
        return [OURS]
    return [OURS, EAGER] + ([] if flags.no_compile else [COMPILED])


def jobs(flags: argparse.Namespace, names: list[str]) -> list[tuple[str, Job]]:
    """All measurements: the ceiling, then each piece of work by all programs."""
    common = dict(
        canvas=flags.canvas,
        depth=flags.depth,
        dtype=flags.dtype,
        steps=flags.steps,
        repeats=flags.repeats,
        mapping=flags.parallel,
        matmul=flags.matmul,
    )
    result = [(OURS, Job('ceiling', **common))]
    for batch in flags.batches:
        for work in flags.work:
            for name in names:
                trace = None
                if flags.profile and name == OURS:
                    folder = pathlib.Path(flags.profile).absolute()
                    trace = str(folder / f'{work}_{batch}')
                job = Job(work, batch, **common)
                compiled = name == COMPILED
                job = dataclasses.replace(job, compiled=compiled, profile=trace)
                result.append((name, job))
    return result


def images_per_second(result: dict) -> float:
    """The speed of one successful measurement."""
    return result['batch'] / result['seconds']


def row(result: dict, ceiling: float | None, ours: dict | None) -> list[str]:
    """Cells of the table; `ours` is our result of the same work, to compare with."""
    labels = [str(result['batch']), result['work'], result['program']]
    if 'error' in result:
        return [*labels, result['error'], *[''] * 5]
    speed, peak = images_per_second(result), result['peak_bytes']
    operations = 2 * result['multiply_adds'] * speed
    ratio = ''
    if ours is not None and ours is not result and 'error' not in ours:
        ratio = f'{images_per_second(ours) / speed:.2f}'
    return [
        *labels,
        f'{speed:.1f}',
        f'{1e3 * result["seconds"]:.1f} ms',
        f'{operations / ceiling:.0%}' if ceiling else '',
        f'{peak / 2**30:.1f} GiB' if peak else '',
        f'{result["first_seconds"]:.0f} s',
        ratio,
    ]


def report(results: list[dict]) -> str:
    """The machine, the ceiling and the table."""
    limit, *measured = results
    ceiling = limit.get('operations_per_second')
    ours = {(r['batch'], r['work']): r for r in measured if r['program'] == OURS}
    versions = {r['version'] for r in results if 'version' in r}
    lines = [f'{limit.get("device")}; {machine()}; {"; ".join(sorted(versions))}']
    if ceiling:
        side, dtype = limit['matmul'], limit['dtype']
        product = f'product of two {side} x {side} matrices of {dtype}'
        lines.append(f'{product}: {ceiling / 1e12:.3g} TFLOPS')
    header = ['images', 'work', 'program', 'images/s', 'step', 'MFU', 'peak memory']
    header += ['first step', 'atss-jax is faster by']
    rows = [row(r, ceiling, ours[r['batch'], r['work']]) for r in measured]
    return '\n'.join([*lines, '', table(header, rows)])


def main() -> int:
    """Runs all measurements and prints the table; returns 1 if any failed."""
    flags = _parser().parse_args()
    results = []
    for name, job in jobs(flags, programs(flags)):
        python = sys.executable if name == OURS else flags.torch_python
        result = run(name, job, python)
        results.append({'program': name, **dataclasses.asdict(job), **result})
        outcome = result.get('error') or f'{result.get("seconds", 0) * 1e3:.1f} ms'
        if job.work == 'ceiling' and 'error' not in result:
            outcome = 'done'
        message = f'{name}: {job.work}, {job.batch}: {outcome}'
        print(message, file=sys.stderr, flush=True)
        if flags.json:
            pathlib.Path(flags.json).write_text(json.dumps(results, indent=1))
    print(report(results))
    failed = [r for r in results if r.get('error') not in (None, 'out of memory')]
    return 1 if failed else 0


if __name__ == '__main__':
    sys.exit(main())
