"""The launch recipes: what they start, and what they do on each exit status."""

import os
import re
import shutil
import signal
import subprocess
import sys

import pytest

from atss_jax.config import load_config
from atss_jax.config.tree import flatten
from benchmarks.scaling_model import flags_parser
from tests.conftest import ROOT
from tests.support.launchers import LAUNCH, Slurm, container_of, job_of, job_set, tpu_vm

SAVED = os.EX_TEMPFAIL  # exit status after SIGTERM: 75
TUPLE = '--config.data.train.pipeline.img_scale=(1000, 600)'  # a shell would split it


@pytest.mark.parametrize('name', ['slurm.sbatch', 'tpu_vm.sh'])
def test_scripts_parse(name):
    subprocess.run(['bash', '-n', LAUNCH / name], check=True)
    if checker := shutil.which('shellcheck'):
        subprocess.run([checker, '-s', 'bash', LAUNCH / name], check=True)


def test_slurm_reads_all_its_options():
    """sbatch stops looking for them at the first command."""
    lines = (LAUNCH / 'slurm.sbatch').read_text().splitlines()
    command = next(i for i, line in enumerate(lines) if line and line[0] != '#')
    assert not any(line.startswith('#SBATCH') for line in lines[command:])


@pytest.mark.parametrize(
    'status, requeue', [(0, None), (1, None), (SAVED, 'requeue 77'), (137, None)]
)
def test_slurm_requeues_what_was_saved_and_nothing_else(tmp_path, status, requeue):
    job = Slurm(tmp_path, str(status), ('--config.seed=1', TUPLE))
    assert job.script.wait(60) == status
    assert job.requeued() == requeue
    for task in job.tasks():
        assert task['flags'][-2:] == ['--config.seed=1', TUPLE]
    srun = (tmp_path / 'srun.calls').read_text().split()
    assert '--cpus-per-task=12' in srun  # srun does not take it over from sbatch


def test_slurm_tasks_that_get_a_signal_save_and_the_job_comes_again(tmp_path):
    job = Slurm(tmp_path, 'wait')
    job.terminate_tasks()
    assert job.script.wait(60) == SAVED
    assert job.requeued() == 'requeue 77'


def test_a_cancelled_slurm_job_waits_for_its_tasks_and_stays_away(tmp_path):
    """scancel signals the script as well as the tasks."""
    job = Slurm(tmp_path, 'wait')
    job.tasks()
    job.script.send_signal(signal.SIGTERM)
    with pytest.raises(subprocess.TimeoutExpired):
        job.script.wait(0.5)
    job.terminate_tasks()
    assert job.script.wait(60) == SAVED
    assert job.requeued() is None


def test_tpu_vm_starts_a_service_on_all_hosts(tmp_path):
    gcloud, sudo = tpu_vm(tmp_path, 'start', '--config.seed=1', TUPLE)
    assert '--worker=all' in gcloud
    assert sudo[0] == 'systemd-run'
    properties = dict(
        option.removeprefix('--property=').split('=', 1)
        for option in sudo
        if option.startswith('--property=')
    )
    assert properties['User'] == 'someone'  # the host's, not the caller's
    assert properties['RestartForceExitStatus'] == str(SAVED)
    assert 'Restart' not in properties  # an error is not tried again
    assert properties['KillMode'] == 'mixed'  # SIGTERM to python alone
    assert sudo[-2:] == ['--config.seed=1', TUPLE]


def test_tpu_vm_stops_the_service_that_it_starts(tmp_path):
    _, start = tpu_vm(tmp_path, 'start')
    gcloud, stop = tpu_vm(tmp_path, 'stop')
    assert '--worker=all' in gcloud
    assert f'--unit={stop[-1]}' in start
    assert stop[:2] == ['systemctl', 'stop']


def test_tpu_vm_explains_itself():
    done = subprocess.run([LAUNCH / 'tpu_vm.sh'], capture_output=True, text=True)
    assert done.returncode == 2
    for command in ('start', 'status', 'log', 'stop'):
        assert command in done.stderr


@pytest.mark.parametrize('kind', ['tpu', 'gpu'])
def test_job_set_is_consistent(kind):
    jobs = job_set(kind)
    job, container = job_of(jobs), container_of(jobs)
    assert job['parallelism'] == job['completions']
    assert container['command'][:2] == ['python', 'train.py']  # no shell takes SIGTERM
    pod = job['template']['spec']
    assert pod['restartPolicy'] == 'Never'  # a policy for failed pods demands it
    volumes = {volume['name'] for volume in pod['volumes']}
    assert {mount['name'] for mount in container['volumeMounts']} == volumes
    devices = {'tpu': 'google.com/tpu', 'gpu': 'nvidia.com/gpu'}
    assert list(container['resources']['limits']) == [devices[kind]]


@pytest.mark.parametrize('kind', ['tpu', 'gpu'])
def test_job_set_restarts_free_of_charge_after_saving(kind):
    jobs = job_set(kind)
    job = job_of(jobs)
    codes = [rule.get('onExitCodes') for rule in job['podFailurePolicy']['rules']]
    name = container_of(jobs)['name']
    assert {'containerName': name, 'operator': 'In', 'values': [SAVED]} in codes
    (rule,) = jobs['spec']['failurePolicy']['rules']
    assert rule['action'] == 'RestartJobSetAndIgnoreMaxRestarts'
    assert rule['onJobFailureReasons'] == ['PodFailurePolicy']


def test_job_set_for_gpus_says_who_is_who():
    jobs = job_set('gpu')
    container = container_of(jobs)
    flags = dict(flag[2:].split('=', 1) for flag in container['command'][2:])
    assert flags['num_processes'] == str(job_of(jobs)['completions'])
    # How JobSet names the first pod of the first job, and its service.
    name = jobs['metadata']['name']
    first = f'{name}-{jobs["spec"]["replicatedJobs"][0]["name"]}-0-0.{name}'
    assert flags['coordinator'].split(':')[0] == first
    variable = flags['process_id'].removeprefix('$(').removesuffix(')')
    assert variable in {entry['name'] for entry in container['env']}


@pytest.fixture(scope='module')
def flags(tmp_path_factory):
    """Where flags are passed to train.py, and which."""
    slurm = Slurm(tmp_path_factory.mktemp('slurm'), '0')
    slurm.script.wait(60)
    _, sudo = tpu_vm(tmp_path_factory.mktemp('tpu_vm'), 'start')
    found = {
        'slurm.sbatch': slurm.tasks()[0]['flags'],
        'tpu_vm.sh': sudo[sudo.index('train.py') + 1 :],
        'gke_jobset.yaml': container_of(job_set('tpu'))['command'][2:],
        'gke_jobset.yaml for GPUs': container_of(job_set('gpu'))['command'][2:],
    }
    assert all(found.values()), found
    return found


@pytest.fixture(scope='module')
def known():
    """Flags of train.py, as its help names them."""
    done = subprocess.run(
        [sys.executable, 'train.py', '--help'], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(re.findall(r'--[a-z_]+', done.stdout))


def test_train_knows_every_flag(flags, known):
    for where, given in flags.items():
        names = {flag.split('=')[0] for flag in given}
        names = {name for name in names if not name.startswith('--config.')}
        assert names <= known, where


def test_every_config_is_there(flags):
    for where, given in flags.items():
        for flag in given:
            name, _, value = flag.partition('=')
            if name == '--config' and value:
                assert (ROOT / value).is_file(), where


def test_page_names_only_flags_that_there_are(known):
    page = (ROOT / 'docs' / 'pods.md').read_text()
    after = ' '.join(re.findall(r' train\.py (--.*)', page))
    assert set(re.findall(r'(--[a-z_]+)', after.replace('--config.', ''))) <= known
    others = set(re.findall(r'--[a-z_]+', flags_parser().format_help()))
    others |= set(re.findall(r'--[a-z-]+', (LAUNCH / 'slurm.sbatch').read_text()))
    assert set(re.findall(r'`(--[a-z_-]+)(?:=[^`.]*)?`', page)) <= known | others


def test_page_names_only_fields_that_there_are():
    page = (ROOT / 'docs' / 'pods.md').read_text()
    config = load_config(str(ROOT / 'configs' / 'atss_r50_1x.py'))
    fields = set(re.findall(r'--config\.([a-z_.0-9]+)', page))
    assert len(fields) > 3
    assert fields <= set(flatten(config.to_dict()))
