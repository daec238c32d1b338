"""Real processes that train together on this machine, and what befalls them."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.distributed import hosts
from atss_jax.training.checkpoint import Checkpoints
from benchmarks.kill_resume import Run, join_flags, wait_for
from tests.conftest import ROOT
from tests.support.small_run import metrics_of

EPOCHS, PER_EPOCH = 2, 20  # more, and the last bits of a sum add up
STEPS = EPOCHS * PER_EPOCH
LIMIT = 120  # --collective_timeout
FIELDS = {
    'data.train.num_images': 4 * PER_EPOCH,
    'optimizer.lr': 0.005,  # a high one magnifies the last bits of a sum
    'model.backbone.norm_cfg.type': 'SyncBN',  # BN depends on the images a device
    'evaluation.interval': 1,
    'checkpoint_config.max_keep_ckpts': 3,
}


def run_of(workdir, processes, devices=4):
    flags = () if processes == 1 else (f'--collective_timeout={LIMIT}',)
    return Run(workdir, processes, EPOCHS, devices, FIELDS, flags)


def finish(run):
    run.start()
    assert run.wait() == [0] * run.processes, run.output.read_text()
    return run


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('hosts')


@pytest.fixture(scope='module')
def one(folder):
    """One process with four devices."""
    return finish(run_of(folder / 'one', 1))


@pytest.fixture(scope='module')
def two(folder):
    """Two processes with two devices each."""
    return finish(run_of(folder / 'two', 2))


def variables(run, step=STEPS):
    model = build_experiment(load_config(str(run.workdir / 'config.json'))).model
    return Checkpoints.open(str(run.workdir)).restore_variables(model, step)


def leaves(run):
    return jax.tree.leaves(variables(run))


def test_two_processes_train_as_one(one, two):
    for a, b in zip(leaves(two), leaves(one), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
    for kind in ('train', 'eval'):
        assert len(metrics_of(two.workdir, kind)) == len(metrics_of(one.workdir, kind))
    for a, b in zip(*(metrics_of(r.workdir, 'train') for r in (two, one)), strict=True):
        assert a.pop('kind') == b.pop('kind')
        assert a == pytest.approx(b, rel=1e-5)
    for a, b in zip(*(metrics_of(r.workdir, 'eval') for r in (two, one)), strict=True):
        assert a['step'] == b['step']
        assert a['AP'] == b['AP'] > 0


def test_only_the_first_process_speaks(two):
    said = two.output.read_text()
    assert said.count('resuming') == 0
    assert said.count('evaluation after epoch 1') == 1
    assert said.count('to evaluate: python eval.py') == 1
    assert said.splitlines()[-1].startswith('done; best AP 0.')


def evaluate(workdir, processes, devices):
    """Runs `eval.py` and gives the files that it writes."""
    environment = os.environ | {
        'XLA_FLAGS': f'--xla_force_host_platform_device_count={devices // processes}'
    }
    running = [
        subprocess.Popen(
            [sys.executable, 'eval.py', f'--workdir={workdir}', *flags],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags in join_flags(processes)
    ]
    output = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0] * processes, output
    assert ['AP50' in text for text in output] == [True] + [False] * (processes - 1)
    names = sorted((workdir / 'evaluation').iterdir())
    return {path.name: json.loads(path.read_text()) for path in names}


def test_evaluation_by_two_processes_equals_that_by_one(two):
    """Each image once, though 8 images and batches of 4 x 1.5 leave rows over."""
    together = evaluate(two.workdir, 2, 4)
    alone = evaluate(two.workdir, 1, 4)
    assert together == alone
    assert any(name.endswith('_detections.json') and alone[name] for name in alone)


@pytest.mark.slow
def test_one_of_two_is_killed(folder, two):
    """The other ends with an error; both started again end where `two` ended."""
    run = run_of(folder / 'killed', 2)
    run.start()
    assert wait_for(lambda: run.saved() == [PER_EPOCH], run)
    survivor, victim = run.running
    os.killpg(victim.pid, signal.SIGKILL)
    began = time.monotonic()
    assert survivor.wait(LIMIT + 60) not in (0, 75)
    assert time.monotonic() - began < LIMIT + 30
    run.wait()
    said = run.output.read_text()
    assert 'host' in said or 'task' in said
    run.start()
    assert run.wait() == [0, 0], run.output.read_text()
    assert run.outcome() == two.outcome()


@pytest.mark.slow
def test_sigterm_to_one_of_two_saves_on_both(folder, two):
    run = run_of(folder / 'terminated', 2)
    run.start()
    assert wait_for(lambda: run.logged() > 0, run)
    run.running[1].send_signal(signal.SIGTERM)
    assert run.wait() == [75, 75], run.output.read_text()
    [saved] = run.saved()
    assert saved % PER_EPOCH  # in the middle of an epoch
    assert 'all is saved, run again to resume' in run.output.read_text()
    # It may continue elsewhere: one process, half the devices, processes that load.
    elsewhere = Run(run.workdir, 1, EPOCHS, 2, FIELDS | {'data.workers_per_gpu': 1}, ())
    finish(elsewhere)
    assert f'resuming after step {saved}' in run.output.read_text()
    for a, b in zip(*map(leaves, (elsewhere, two)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


PROGRAM = """
import jax, numpy
from atss_jax.distributed import devices, hosts
devices.start()
number = jax.process_index()
print('here', number, jax.process_count(), len(jax.devices()), flush=True)
from_all = devices.gather({
    'a': numpy.arange(number + 1) + 2**40,
    'b': numpy.zeros((number, 3), bool),
})
print([part['a'].tolist() for part in from_all], [part['b'].shape for part in from_all])
print(devices.from_first({'x': [0.1, None, number]}))
print(devices.local_rows(4))
print(devices.done_by_first(lambda: f'done by {number}'))
try:
    devices.done_by_first(lambda: open(f'/no file of {number}'))
except (ValueError, OSError) as error:
    print(type(error).__name__, error)
try:
    hosts.check_equal({'same': 'x', 'config': f'lr {number}'}, {'config': 'Copy it.'})
except ValueError as error:
    print(error)
hosts.leave('enough', 3)
"""


def launched(variables_of):
    """Output of two processes that a launcher's variables tell who they are."""
    running = []
    for number in range(2):
        environment = os.environ | variables_of(number)
        environment |= {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
        running.append(
            subprocess.Popen(
                [sys.executable, '-c', PROGRAM],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
        )
    output = [process.communicate(timeout=200)[0] for process in running]
    assert [process.returncode for process in running] == [3, 3], output
    return output


def slurm(number):
    return {
        'SLURM_JOB_ID': str(os.getpid()),
        'SLURM_STEP_NODELIST': 'localhost',
        'SLURM_NTASKS': '2',
        'SLURM_PROCID': str(number),
        'SLURM_LOCALID': str(number),
        'SLURM_STEP_NUM_NODES': '1',
    }


def open_mpi(number):
    return {
        'OMPI_COMM_WORLD_SIZE': '2',
        'OMPI_COMM_WORLD_RANK': str(number),
        'OMPI_COMM_WORLD_LOCAL_SIZE': '2',
        'OMPI_MCA_orte_hnp_uri': f'{os.getpid() * 4096}.0;tcp://127.0.0.1:34911',
    }


@pytest.mark.parametrize('variables_of', [slurm, open_mpi])
def test_launchers(variables_of):
    for number, text in enumerate(launched(variables_of)):
        assert f'here {number} 2 2' in text
        big = 2**40
        assert f'[[{big}], [{big}, {big + 1}]] [(0, 3), (1, 3)]' in text
        assert "{'x': [0.1, None, 0]}" in text
        assert f'({2 * number}, {2 * number + 2})' in text
        assert 'done by 0\n' in text and 'done by 1' not in text
        kind = ('FileNotFoundError', 'ValueError')[number]
        assert f"{kind} [Errno 2] No such file or directory: '/no file of 0'\n" in text
        assert 'the hosts are not alike' in text
        difference = 'config: process [1] differs from process 0; here it is'
        assert f'{difference} lr {number}. Copy it.' in text
        assert '\n  same:' not in text
        assert '-c: enough' in text


def test_hosts_with_other_configs_and_workdirs_are_refused(folder):
    """Both processes end with the same message, and nothing is left to clean up."""
    run = run_of(folder / 'unlike', 2)
    plain, environment = list(run.command), os.environ | {'XLA_FLAGS': ''}
    own = [['--config.optimizer.lr=0.5'], []]
    running = [
        subprocess.Popen(
            [*plain, *flags, *more],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags, more in zip(join_flags(2), own, strict=True)
    ]
    output = [process.communicate(timeout=300)[0] for process in running]
    assert [process.returncode for process in running] == [1, 1], output
    for text in output:
        assert 'config: process [1] differs from process 0' in text
    assert not (run.workdir / 'config.json').exists()


BROKEN = """
import argparse, sys, numpy, jax
from atss_jax.commands import command_line
from atss_jax.distributed import devices
parser = argparse.ArgumentParser()
command_line.add_host_flags(parser)

def action():
    if jax.process_index() == 1:
        {}['a bug']
    devices.gather({'a': numpy.zeros(1)})

sys.exit(command_line.run(parser.parse_args(), "-c", action))
"""


def test_a_bug_on_one_host_ends_both_at_once():
    """Not after the time limit, and with the bug's name where it happened."""
    began = time.monotonic()
    running = [
        subprocess.Popen(
            [sys.executable, '-c', BROKEN, *flags, '--collective_timeout=100'],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for flags in join_flags(2)
    ]
    output = [process.communicate(timeout=200)[0] for process in running]
    assert all(process.returncode not in (0, 75) for process in running)
    assert time.monotonic() - began < 90
    assert "-c: KeyError: 'a bug'" in output[1] and 'Traceback' in output[1]
    assert 'no progress' not in output[0] + output[1]


def test_sigterm_while_waiting_for_the_others(tmp_path):
    """Before there is anything to save: the status that asks to be started again."""
    [flags, _] = join_flags(2)
    port = int(flags[0].rpartition(':')[2])
    process = subprocess.Popen(
        [*Run(tmp_path / 'run', 1, 1).command, *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    until = time.monotonic() + 100
    while time.monotonic() < until:
        with socket.socket() as probe:
            if probe.connect_ex(('127.0.0.1', port)) == 0:
                break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 75, said
    assert 'run again to resume' in said


@pytest.mark.parametrize(
    ('called', 'name'),
    [('/x/atss_jax/__main__.py', 'atss_jax'), ('train.py', 'train.py')],
)
def test_the_last_message_names_the_program(called, name, monkeypatch, capsys):
    monkeypatch.setattr('sys.argv', [called, '--config=x'])
    monkeypatch.setattr('os._exit', lambda status: None)
    hosts.leave('it is over')
    assert capsys.readouterr().err == f'{name}: it is over\n'


def run_for_a_while(program):
    """Runs a Python program that sleeps for a minute unless something ends it."""
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=ROOT, capture_output=True, text=True
    )
    assert time.monotonic() - began < 50
    return done


def test_compiling_does_not_count_as_standing_still():
    """Every host compiles for itself, and may take longer than the others wait."""
    program = (
        'import time\nfrom atss_jax.distributed import hosts\n'
        'from atss_jax.training.log import Length, RunLog\n'
        'log = RunLog(Length(0, 4, 2), 2)\nhosts.watch(1.5)\n'
        'with log.compiling((64, 64)) as is_first: time.sleep(4)\n'
        'print(is_first)\nhosts.progress("step 7")\n'
        'with log.compiling((64, 64)) as is_first: print(is_first)\n'
        'time.sleep(60)'
    )
    done = run_for_a_while(program)
    assert 'True\nFalse\n' in done.stdout, done.stderr
    assert 'no progress for 1.5 s (step 7)' in done.stderr


def test_standing_still_is_an_error():
    program = (
        'import time\nfrom atss_jax.distributed import hosts\n'
        'hosts.watch(1.5)\nhosts.progress("step 7")\ntime.sleep(60)'
    )
    done = run_for_a_while(program)
    assert done.returncode == 1
    assert 'no progress for 1.5 s (step 7)' in done.stderr
    assert 'File "<string>", line 5' in done.stderr  # where it stood
