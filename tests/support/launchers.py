"""Stand-ins for the programs that the launch files call, to see what they pass on."""

import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import yaml

from tests.conftest import ROOT

LAUNCH = ROOT / 'launch'
TASKS = 2

# As SLURM does: starts the command once per task and ends with the worst exit status.
SRUN = f"""#!/bin/bash
echo "$*" >> srun.calls
while [[ $1 == --* ]]; do shift; done
for ((id = 0; id < {TASKS}; id++)); do SLURM_PROCID=$id "$@" & pids+=($!); done
status=0
for pid in "${{pids[@]}}"; do
    wait "$pid"
    code=$?
    ((code > status)) && status=$code
done
exit "$status"
"""

# Writes down its flags; ends with the status of STATUS, or on SIGTERM with 75.
TRAIN = """
import json, os, pathlib, signal, sys

def stop(number, frame):
    sys.exit(75)

signal.signal(signal.SIGTERM, stop)
seen = pathlib.Path(f"task{os.environ['SLURM_PROCID']}.tmp")
seen.write_text(json.dumps({'pid': os.getpid(), 'flags': sys.argv[1:]}))
seen.replace(seen.with_suffix('.json'))
while os.environ['STATUS'] == 'wait':
    signal.pause()
sys.exit(int(os.environ['STATUS']))
"""

# Writes down its arguments.
DUMP = "import json, sys; json.dump(sys.argv[1:], open({!r}, 'w'))"


def write_program(path: pathlib.Path, text: str) -> None:
    """Writes an executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


class Slurm:
    """`launch/slurm.sbatch` with an `srun` of two tasks that run a small `train.py`."""

    def __init__(self, folder: pathlib.Path, status: str, flags: tuple[str, ...] = ()):
        write_program(folder / 'bin' / 'srun', SRUN)
        write_program(
            folder / 'bin' / 'scontrol', '#!/bin/bash\necho "$*" > scontrol\n'
        )
        (folder / '.venv' / 'bin').mkdir(parents=True)
        (folder / '.venv' / 'bin' / 'python').symlink_to(sys.executable)
        (folder / 'train.py').write_text(TRAIN)
        self.folder = folder
        self.script = subprocess.Popen(
            ['bash', LAUNCH / 'slurm.sbatch', *flags],
            cwd=folder,
            env=os.environ
            | {'PATH': f'{folder}/bin:{os.environ["PATH"]}', 'STATUS': status}
            | {'SLURM_JOB_ID': '77', 'SLURM_CPUS_PER_TASK': '12'},
        )

    def tasks(self) -> list[dict]:
        """What the tasks have written down, once both have started."""
        files = [self.folder / f'task{i}.json' for i in range(TASKS)]
        until = time.monotonic() + 60
        while not all(file.exists() for file in files):
            assert time.monotonic() < until, 'the tasks did not start'
            time.sleep(0.02)
        return [json.loads(file.read_text()) for file in files]

    def terminate_tasks(self) -> None:
        """Sends SIGTERM to each task, as SLURM does before the time limit."""
        for task in self.tasks():
            os.kill(task['pid'], signal.SIGTERM)

    def requeued(self) -> str | None:
        """The arguments of `scontrol`; None if it was not called."""
        file = self.folder / 'scontrol'
        return file.read_text().strip() if file.exists() else None


def tpu_vm(folder: pathlib.Path, *arguments: str) -> tuple[list[str], list[str]]:
    """Runs `launch/tpu_vm.sh`.

    Returns:
        The arguments of gcloud, and those of sudo in the command that it would send.
    """
    for name in ('gcloud', 'sudo'):
        seen = str(folder / f'{name}.json')
        write_program(folder / name, f'#!{sys.executable}\n{DUMP.format(seen)}')
    path = f'{folder}:{os.environ["PATH"]}'
    environment = os.environ | {'PATH': path, 'USER': 'someone'}
    subprocess.run([LAUNCH / 'tpu_vm.sh', *arguments], env=environment, check=True)
    gcloud = json.loads((folder / 'gcloud.json').read_text())
    command = gcloud.pop().removeprefix('--command=')
    subprocess.run(['bash', '-c', command], env=environment, check=True)
    sudo = folder / 'sudo.json'
    return gcloud, json.loads(sudo.read_text()) if sudo.exists() else []


def job_set(kind: str) -> dict:
    """`launch/gke_jobset.yaml` for 'tpu', or as its comment changes it for 'gpu'."""
    file = LAUNCH / 'gke_jobset.yaml'
    if kind == 'tpu':
        return yaml.safe_load(file.read_text())
    command = re.search(r'sed .* launch/gke_jobset.yaml', file.read_text())[0]
    done = subprocess.run(
        command, shell=True, cwd=ROOT, capture_output=True, text=True, check=True
    )
    return yaml.safe_load(done.stdout)


def job_of(job_set: dict) -> dict:
    """The Job that a JobSet starts."""
    (replicated,) = job_set['spec']['replicatedJobs']
    return replicated['template']['spec']


def container_of(job_set: dict) -> dict:
    """The container of its pods."""
    (container,) = job_of(job_set)['template']['spec']['containers']
    return container
