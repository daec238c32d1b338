"""Kills training at random moments and compares its end with an uninterrupted run.

    python benchmarks/kill_resume.py --kills 20 --processes 1
    python benchmarks/kill_resume.py --kills 20 --processes 2

Half of the kills (SIGKILL, to all processes at once) come at a random moment of an
epoch, half while a checkpoint is being written. After each kill, the run is started
again with the same command. At the end the weights and the metrics log must equal, bit
for bit, those of an uninterrupted run. The exit status is 1 if they do not.
"""

import argparse
import hashlib
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
OVERRIDES = {
    # The demo's data and code, with a model that takes milliseconds per step.
    'model.backbone.num_stages': 2,
    'model.backbone.out_indices': (1,),
    'model.backbone.frozen_stages': 0,
    'model.neck.in_channels': (128,),
    'model.neck.start_level': 0,
    'model.neck.out_channels': 32,
    'model.neck.num_outs': 2,
    'model.bbox_head.in_channels': 32,
    'model.bbox_head.feat_channels': 32,
    'model.bbox_head.stacked_convs': 1,
    'model.bbox_head.norm_cfg.num_groups': 8,
    'model.bbox_head.anchor_generator.strides': (8, 16),
    'test_cfg.score_thr': 0.0,
    'test_cfg.max_per_img': 20,
    'data.workers_per_gpu': 0,
    'auto_scale_lr.base_batch_size': 4,
    'lr_config.warmup_iters': 2,
    'checkpoint_config.max_keep_ckpts': 1,
    'evaluation.interval': 2,
    'log_config.interval': 3,
    **{f'data.{split}.min_size': 64 for split in ('train', 'val', 'test')},
    **{f'data.{split}.max_size': 64 for split in ('train', 'val', 'test')},
    **{
        f'data.{split}.pipeline.img_scale': (64, 64)
        for split in ('train', 'val', 'test')
    },
    'data.train.num_images': 40,
    'data.val.num_images': 8,
    'data.test.num_images': 8,
}


class Run:
    """Processes that train in one workdir with one command.

    Args:
        workdir: folder of the run; output goes to a file next to it.
        processes: number of processes, all on this machine.
        epochs: number of epochs, of 10 steps of 4 images each.
        devices: number of devices of all processes together.
        fields: config fields, in addition to `OVERRIDES`.
        flags: further flags of `train.py`.
    """

    def __init__(
        self,
        workdir: pathlib.Path,
        processes: int,
        epochs: int,
        devices: int = 2,
        fields: Mapping[str, Any] | None = None,
        flags: Sequence[str] = (),
    ):
        self.workdir, self.processes, self.devices = workdir, processes, devices
        fields = {
            **OVERRIDES,
            'data.samples_per_gpu': 4 // devices,
            'total_epochs': epochs,
            'lr_config.step': (max(epochs - 1, 1),),
            **(fields or {}),
        }
        self.command = [
            sys.executable,
            str(ROOT / 'train.py'),
            f'--config={ROOT / "configs" / "atss_shapes.py"}',
            f'--workdir={workdir}',
            *(f'--config.{name}={value!r}' for name, value in fields.items()),
            *flags,
        ]
        self.output = workdir.parent / f'{workdir.name}.log'

    def start(self) -> None:
        """Starts all processes."""
        flags = join_flags(self.processes)
        devices = self.devices // self.processes
        environment = os.environ | {
            'JAX_PLATFORMS': 'cpu',
            'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices}',
            'PYTHONPATH': str(ROOT),
        }
        self.log = self.output.open('a')
        self.running = [
            subprocess.Popen(
                [*self.command, *process_flags],
                stdout=self.log,
                stderr=self.log,
                env=environment,
                start_new_session=True,
            )
            for process_flags in flags
        ]

    def is_running(self) -> bool:
        """Whether any process is still running."""
        return any(process.poll() is None for process in self.running)

    def kill(self) -> None:
        """Sends SIGKILL to all processes and to those that they started."""
        for process in self.running:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self.wait()

    def wait(self) -> list[int]:
        """Waits until all processes have ended; returns their exit statuses."""
        statuses = [process.wait() for process in self.running]
        self.log.close()
        return statuses

    def saving(self) -> bool:
        """Whether a checkpoint is being written."""
        return any((self.workdir / 'checkpoints').glob('*.orbax-checkpoint-tmp'))

    def saved(self) -> list[int]:
        """Steps of the finished checkpoints."""
        folders = (self.workdir / 'checkpoints').glob('[0-9]*')
        return sorted(int(path.name) for path in folders if path.name.isdigit())

    def newly_saved(self, before: Sequence[int]) -> int:
        """The number of finished checkpoints that are newer than `before`."""
        return sum(step > max(before, default=0) for step in self.saved())

    def logged(self) -> int:
        """The number of lines of the metrics log."""
        file = self.workdir / 'metrics.jsonl'
        return len(file.read_bytes().splitlines()) if file.exists() else 0

    def log_file(self) -> int | None:
        """The inode of the metrics log; each start makes a new file."""
        file = self.workdir / 'metrics.jsonl'
        return file.stat().st_ino if file.exists() else None

    def outcome(self) -> tuple[str, str]:
        """Hashes of the final training state and of the metrics log."""
        log = hashlib.sha256((self.workdir / 'metrics.jsonl').read_bytes())
        return _hash_of_state(self.workdir, self.saved()[-1]), log.hexdigest()[:16]


def join_flags(processes: int) -> list[list[str]]:
    """Flags for each process, with which they find each other on this machine."""
    if processes == 1:
        return [[]]
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    common = [f'--coordinator=127.0.0.1:{port}', f'--num_processes={processes}']
    return [[*common, f'--process_id={number}'] for number in range(processes)]


def _hash_of_state(workdir, step):
    """Hashes all arrays of a checkpoint, read by the code that training uses."""
    import jax

    from atss_jax.config import build_experiment, load_config
    from atss_jax.training.checkpoint import Checkpoints
    from atss_jax.training.state import create_state, zero_variables
    from atss_jax.training.update_rule import structure_of_optimizer

    experiment = build_experiment(load_config(str(workdir / 'config.json')))
    tx = structure_of_optimizer(experiment)
    like = create_state(zero_variables(experiment.model), experiment.model, tx)
    state = Checkpoints.open(str(workdir)).restore(step, like)
    content = hashlib.sha256()
    for leaf in jax.tree.leaves(state.asdict()):
        content.update(np.ascontiguousarray(leaf))
    return content.hexdigest()[:16]


def wait_for(happened, run: Run, limit: float = 600) -> bool:
    """Waits until `happened()` is true; returns False if the run ends first."""
    until = time.monotonic() + limit
    while not happened():
        if not run.is_running():
            return False
        if time.monotonic() > until:
            run.kill()
            raise TimeoutError(
                f'what was waited for did not happen in {limit} s; see {run.output}'
            )
        time.sleep(0.002)
    return True


def kill_once(run: Run, in_save: bool, rng: random.Random, epoch_time: float) -> str:
    """Starts the run and kills it; says when, or '' if it finished before."""
    before, log = run.saved(), run.log_file()
    skipped = rng.randrange(2)  # saves or epochs, so that runs differ in length
    run.start()
    if in_save:
        alive = wait_for(lambda: run.newly_saved(before) >= skipped, run)
        alive = alive and wait_for(run.saving, run)
        time.sleep(rng.uniform(0, 0.08))
    else:
        alive = wait_for(lambda: run.log_file() != log, run)  # training has begun
        time.sleep(rng.uniform(0, (skipped + 1) * epoch_time))
    if not alive or not run.is_running():
        run.wait()
        return ''
    was_saving = run.saving()
    run.kill()
    after = run.saved()
    return (
        f'killed {"while saving" if was_saving else "between saves"}; checkpoints '
        f'{before or "none"} before, {after or "none"} after'
    )


def main() -> int:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=20, help='number of kills')
    parser.add_argument('--processes', type=int, default=1, choices=(1, 2))
    parser.add_argument('--seed', type=int, default=0, help='of the random moments')
    parser.add_argument(
        '--folder', help='folder of the two runs (default: a temporary one)'
    )
    flags = parser.parse_args()
    folder = pathlib.Path(flags.folder or tempfile.mkdtemp(prefix='kill_resume_'))
    folder.mkdir(parents=True, exist_ok=True)
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(folder / 'compile_cache'))
    os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.3')
    same = compare(folder, flags.processes, flags.kills, random.Random(flags.seed))
    if same and not flags.folder:
        shutil.rmtree(folder)
    return 0 if same else 1


def run_through(run: Run, epochs: int) -> float:
    """Runs to the end; returns the seconds per epoch after the first save."""
    began = time.monotonic()
    run.start()
    wait_for(lambda: run.saved() != [], run)
    first = time.monotonic()
    if any(run.wait()):
        raise RuntimeError(f'the uninterrupted run failed: see {run.output}')
    print(f'uninterrupted: {epochs} epochs in {time.monotonic() - began:.0f} s')
    return (time.monotonic() - first) / (epochs - 1)


def compare(
    folder: pathlib.Path,
    processes: int,
    kills: int,
    rng: random.Random,
    epochs: int | None = None,
) -> bool:
    """Whether a run that is killed `kills` times ends as an uninterrupted one."""
    epochs = epochs or kills + 2
    uninterrupted = Run(folder / 'alone', processes, epochs)
    epoch_time = run_through(uninterrupted, epochs)
    killed = Run(folder / 'killed', processes, epochs)
    done = 0
    while done < kills:
        description = kill_once(killed, done % 2 == 1, rng, epoch_time)
        if not description:
            break
        done += 1
        print(f'{done:3d}. {description}', flush=True)
    killed.start()
    statuses = killed.wait()
    print(f'{done} kills, {done} resumes, last exit status {statuses}')
    outcomes = uninterrupted.outcome(), killed.outcome()
    for name, (state, log) in zip(('uninterrupted', 'killed'), outcomes, strict=True):
        print(f'{name:13s}: state {state}, metrics log {log}')
    same, complete = outcomes[0] == outcomes[1], done == kills and not any(statuses)
    if not complete:
        print(f'INCOMPLETE, {done} of {kills} kills came in time: see {killed.output}')
    print('equal bit for bit' if same else f'NOT equal: see {killed.output}')
    return same and complete


if __name__ == '__main__':
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
