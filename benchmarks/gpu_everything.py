"""All that is to be known of one GPU, in one run with a limit on its time.

    python benchmarks/gpu_everything.py --out=gpu_run

In this order, of which each entry is written to OUT/results.json when it is there:

- the operations per second of a matrix product; training and inference of the R50
  recipe with 16 resident images, by `gpu.py`, each with a trace in OUT/profile and its
  ten longest kernels;
- the same training started once more, with the kernels that the first start chose;
- an epoch of `train.py` on JPEG files, compared with the training on resident images;
- the training step of DCNv2, DyHead, ResNeXt and Swin;
- the R50 step with other XLA flags, timed in turns with the present ones.

What does not fit into --minutes is named; the same command then continues with it.
Needs no more than the requirements of the package. To check on a CPU that all of it
works, in ten minutes:

    python benchmarks/gpu_everything.py --out=small --minutes=60 --tiny
"""

import dataclasses
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from benchmarks import gpu, gpu_turns, input_data, timing  # noqa: E402
from benchmarks.gpu_config import Step  # noqa: E402
from benchmarks.gpu_tables import longest_kernels, report  # noqa: E402
from benchmarks.gpu_turns import Candidate, in_turns  # noqa: E402
from benchmarks.gpu_work import Job  # noqa: E402

RECIPE = 'atss_r50_1x'
# Batches that fit into 80 GB by a wide margin.
MODELS = {
    'atss_r50_dcn_1x': 16,
    'atss_r50_dyhead_1x': 16,
    'atss_x101_32x8d_2x_ms': 8,
    'atss_swin_l_dyhead_2x_ms': 4,
}
_BUFFERS = 'FUSION,CUBLAS,CUBLASLT,CUDNN,CUSTOM_CALL,COLLECTIVES,WHILE,CONDITIONAL'
CANDIDATES = {
    'as it is': '',
    'no CUDA graphs': '--xla_gpu_enable_command_buffer=',
    'CUDA graphs of all kinds': f'--xla_gpu_enable_command_buffer={_BUFFERS}',
    'the same, side by side': f'--xla_gpu_enable_command_buffer={_BUFFERS} '
    '--xla_gpu_command_buffer_scheduling_mode=CONCURRENT',
    'passes by Triton': '--xla_gpu_experimental_all_fusions_with_triton=true',
    'passes tuned': '--xla_gpu_experimental_enable_fusion_autotuner=true',
    'latency-hiding scheduler': '--xla_gpu_enable_latency_hiding_scheduler=true',
    'no Triton products': '--xla_gpu_enable_triton_gemm=false',
    'dependent launches': '--xla_gpu_enable_pdl=true',
    'convolutions fused with passes': '--xla_gpu_experimental_enable_conv_fusion=true',
}
_TOO_LONG = 80  # seconds after which a candidate is given up
_SPEED = re.compile(r'([\d.]+) images/s, waiting for data (\d+)%')
_TINY = {
    'model.backbone.depth': 18,
    'model.neck.in_channels': (64, 128, 256, 512),
}


@dataclasses.dataclass(frozen=True)
class Size:
    """How much is measured.

    Attributes:
        canvas: height, width of resident images.
        batch: images of the R50 recipe.
        dtype: what networks compute in.
        steps: number of steps that are timed together.
        epoch: steps of the epoch on files.
        matmul: side of the matrices of the product.
        models: images of each other config, by its name.
        overrides: fields of the recipe, which make it small.
        depth: of the recipe's ResNet.
    """

    canvas: tuple[int, int] = (800, 1344)
    batch: int = 16
    dtype: str = 'bfloat16'
    steps: int = 10
    epoch: int = 150
    matmul: int = 8192
    models: dict[str, int] = dataclasses.field(default_factory=lambda: dict(MODELS))
    overrides: dict[str, Any] = dataclasses.field(default_factory=dict)
    depth: int = 50


TINY = Size(
    canvas=(64, 96),
    batch=2,
    dtype='float32',
    steps=1,
    epoch=4,
    matmul=64,
    models={'atss_r50_dcn_1x': 1},
    overrides=_TINY,
    depth=18,
)


# What each entry measures ------------------------------------------------------------


class Bench:
    """Measures into a folder.

    Args:
        out: the folder.
        size: how much.
        deadline: `time.monotonic()` after which no process may run.
        only: names of the entries to measure; None: all.
        at_once: whether the steps of other configs compile at the same time.
    """

    def __init__(
        self,
        out: pathlib.Path,
        size: Size,
        deadline: float,
        only: list[str] | None = None,
        at_once: bool = False,
    ):
        self.out, self.size, self.deadline, self.only = out, size, deadline, only
        self.at_once = at_once
        self._file = out / 'results.json'
        self.results = {}
        if self._file.exists():
            self.results = json.loads(self._file.read_text())

    def entries(self) -> dict[str, tuple[float, Callable[[], dict]]]:
        """Seconds that each entry may take on an H200, and what measures it."""
        entries = {
            'matrix product': (15, lambda: self.job('ceiling')),
            'R50 training': (65, lambda: self.job('training')),
            'R50 inference': (30, lambda: self.job('inference')),
            'R50 training, kernels chosen before': (45, lambda: self.job('training')),
            'R50 training from files': (90, self.from_files),
        }
        if self.at_once:
            entries['other configs'] = 150, self.steps_at_once
        else:
            for config, batch in self.size.models.items():
                entries[f'{config}, {batch} images'] = (
                    75,
                    lambda config=config, batch=batch: self.step(config, batch),
                )
        entries['XLA flags'] = (2 * gpu_turns.CANDIDATE, self.flags)
        only = entries if self.only is None else self.only
        unknown = [name for name in only if name not in entries]
        if unknown:
            raise SystemExit(
                f'gpu_everything: --only: no entry {unknown[0]!r}; there are '
                f'{", ".join(map(repr, entries))}'
            )
        return {name: entry for name, entry in entries.items() if name in only}

    def measure(self) -> list[str]:
        """Measures what is not there yet; returns the names that there is no time for.

        A failure is an entry, too, which the next run tries again.
        """
        late = []
        for name, (seconds, call) in self.entries().items():
            if self._is_complete(name):
                continue
            if time.monotonic() + seconds > self.deadline:
                late.append(name)
                continue
            print(f'{name} ...', file=sys.stderr, flush=True)
            try:
                self.results[name] = call()
            except subprocess.TimeoutExpired:
                late.append(name)
                continue
            self._file.write_text(json.dumps(self.results, indent=1))
            if name == 'XLA flags' and not self._is_complete(name):
                late.append(f'some of the {name}')
        return late

    def _is_complete(self, name):
        if name == 'XLA flags':
            return self.results.get(name, {}).keys() == CANDIDATES.keys()
        if name not in self.results:
            return False
        result = self.results[name]
        parts = result.values() if name == 'other configs' else [result]
        return all(part.get('error') in (None, 'out of memory') for part in parts)

    def job(self, work: str) -> dict:
        """A job of `gpu.py`, with a trace and kernels the first time."""
        size = self.size
        folder = self.out / 'profile' / work
        job = Job(
            work,
            size.batch,
            canvas=size.canvas,
            depth=size.depth,
            dtype=size.dtype,
            steps=size.steps,
            matmul=size.matmul,
            profile=None if folder.exists() or work == 'ceiling' else str(folder),
        )
        command = [sys.executable, '-m', gpu.MODULES[gpu.OURS]]
        text = self._output([*command, json.dumps(dataclasses.asdict(job))], 'shared')
        result = {'batch': size.batch, **_last_line(text)}
        if job.profile and folder.exists():
            result['kernels'] = longest_kernels(folder)
        return result

    def step(self, config: str, batch: int) -> dict:
        """The training step of a config."""
        (result,) = self.in_turns({config: self.candidate(config, batch)}).values()
        return result

    def steps_at_once(self) -> dict[str, dict]:
        """The training steps of all other configs, compiled at the same time."""
        chosen = {
            f'{config}, {batch} images': self.candidate(config, batch, limit=140)
            for config, batch in self.size.models.items()
        }
        return self.in_turns(chosen, at_once=True)

    def flags(self) -> dict:
        """The recipe's step with each set of flags that there is time for, in turns."""
        chosen = {
            name: self.candidate(RECIPE, self.size.batch, flags, _TOO_LONG)
            for name, flags in CANDIDATES.items()
        }
        return self.in_turns(chosen)

    def candidate(
        self, config: str, batch: int, flags: str = '', limit: float | None = None
    ) -> Candidate:
        """The step of a config with XLA flags."""
        size, is_recipe = self.size, config == RECIPE
        overrides = size.overrides if is_recipe else {}
        step = Step(config, overrides, batch, size.canvas, size.dtype, size.steps)
        return Candidate(step, 'shared' if is_recipe else config, flags, limit)

    def in_turns(self, candidates: dict[str, Candidate], **how) -> dict[str, dict]:
        """`gpu_turns.in_turns` until the deadline."""
        return in_turns(candidates, self.environment, self.deadline, **how)

    def from_files(self) -> dict:
        """An epoch of `train.py` on JPEG files, without its first log interval."""
        folder, size = self.out / 'files', self.size
        shutil.rmtree(folder, ignore_errors=True)
        write_files(folder, size.epoch * size.batch, distinct=160)
        interval = max(1, size.epoch // 5)
        text = self._output(
            training_command(folder, size, interval), 'shared', merged=True
        )
        (folder / 'train.txt').write_text(text)
        later = [(float(x), float(y) / 100) for x, y in _SPEED.findall(text)][1:]
        if not later:
            return {'error': f'see {folder / "train.txt"}'}
        seconds = sum(size.batch / speed for speed, _ in later) / len(later)
        waiting = sum(share for _, share in later) / len(later)
        return {'batch': size.batch, 'seconds': seconds, 'data_wait_share': waiting}

    # Processes

    def environment(self, cache: str, flags: str = '', share: float = 0.9) -> dict:
        """Variables of a process that uses the first device alone.

        Args:
            cache: name of the folder that keeps the choice of kernels.
            flags: XLA flags.
            share: of the memory of the device.
        """
        kernels = self.out / 'kernels' / cache.replace(' ', '_')
        kernels.mkdir(parents=True, exist_ok=True)
        kept = f'--xla_gpu_per_fusion_autotune_cache_dir={kernels}'
        words = os.environ.get('XLA_FLAGS', ''), kept, flags
        return gpu.environment() | {
            'XLA_FLAGS': ' '.join(filter(None, words)),
            'XLA_PYTHON_CLIENT_MEM_FRACTION': f'{share:.3f}',
            'JAX_ENABLE_COMPILATION_CACHE': 'false',
        }

    def _output(self, command, cache, merged=False):
        done = subprocess.run(
            command,
            cwd=ROOT,
            env=self.environment(cache),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if merged else None,
            text=True,
            timeout=max(self.deadline - time.monotonic(), 1),
        )
        return done.stdout


def _last_line(text):
    """The JSON of the last line that a process printed."""
    try:
        return json.loads(text.splitlines()[-1])
    except (IndexError, ValueError):
        return {'error': 'failed'}


# Files, commands, traces -------------------------------------------------------------


def write_files(folder: pathlib.Path, count: int, distinct: int) -> None:
    """Writes JPEG files of 640 x 480 with a COCO file, and one image to evaluate.

    Args:
        folder: where to.
        count: number of files.
        distinct: number of different images; all others are copies of them, since only
            the path matters to the loader.
    """
    images = folder / 'images'
    images.mkdir(parents=True)
    distinct = min(count, distinct)
    input_data.write_images(images, distinct, input_data.SIZE)
    for index in range(distinct, count):
        source = images / f'{index % distinct:04d}.jpg'
        shutil.copyfile(source, images / f'{index:04d}.jpg')
    input_data.write_annotations(images, count, folder / 'train.json')
    input_data.write_annotations(images, 1, folder / 'val.json')


def training_command(folder: pathlib.Path, size: Size, interval: int) -> list[str]:
    """The command that trains for an epoch on the files of a folder."""
    height, width = size.canvas
    scale = f'({max(height, width - 11)}, {min(height, width - 11)})'
    fields = {
        **size.overrides,
        'model.pretrained': None,
        'model.bbox_head.num_classes': 1,
        'data.samples_per_gpu': size.batch,
        'data.workers_per_gpu': max(2, len(os.sched_getaffinity(0)) - 2),
        'total_epochs': 1,
        'log_config.interval': interval,
        'lr_config.warmup_iters': 10**4,
    }
    for split, name in (('train', 'train'), ('val', 'val'), ('test', 'val')):
        fields[f'data.{split}.ann_file'] = folder / f'{name}.json'
        fields[f'data.{split}.img_prefix'] = folder / 'images'
        fields[f'data.{split}.pipeline.img_scale'] = scale
    if size.dtype == 'bfloat16':
        fields['fp16'] = {'loss_scale': 'dynamic'}
    return [
        sys.executable,
        str(ROOT / 'train.py'),
        f'--config={RECIPE}',
        f'--workdir={folder / "workdir"}',
        *(f'--config.{name}={value}' for name, value in fields.items()),
    ]


def main() -> int:
    """Measures, prints; exit status 1 if something failed, 3 if something is left."""
    began = time.monotonic()
    parser = timing.new_parser(__doc__)
    add = parser.add_argument
    add('--out', type=pathlib.Path, required=True, help='folder of all results')
    add('--minutes', type=float, default=11.5, help='limit of the run')
    add(
        '--tiny', action='store_true', help='sizes for a CPU, whose speeds mean nothing'
    )
    add('--only', nargs='+', metavar='ENTRY', help='measure these entries alone')
    add(
        '--at_once',
        action='store_true',
        help='compile the steps of other configs at the same time, which disturbs the '
        'choice of kernels',
    )
    add('--table', action='store_true', help='print what there is, measure nothing')
    flags = parser.parse_args()
    out = flags.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    deadline = began + 60 * flags.minutes
    size = TINY if flags.tiny else Size()
    bench = Bench(out, size, deadline, flags.only, flags.at_once)
    late = [] if flags.table else bench.measure()
    print(report(bench.results))
    if late:
        print('\nno time was left for: ' + '; '.join(late))
    groups = (bench.results.get(name, {}) for name in ('XLA flags', 'other configs'))
    nested = [*bench.results.values(), *(x for g in groups for x in g.values())]
    failed = [x for x in nested if x.get('error') not in (None, 'out of memory')]
    return 1 if failed else 3 if late else 0


if __name__ == '__main__':
    sys.exit(main())
