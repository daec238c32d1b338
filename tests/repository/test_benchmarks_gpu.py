"""The measurement on one GPU: of the recipe, and small on a CPU."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.detection.losses import LossConfig
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.models.cost import multiply_adds
from atss_jax.models.preprocess import Normalizer
from atss_jax.optim.optimizer import OptimizerConfig
from atss_jax.optim.schedule import LrConfig
from atss_jax.training.state import merge, split, zero_variables
from benchmarks import gpu, gpu_jax, gpu_work
from benchmarks.gpu_work import Job
from tests.conftest import ROOT

SMALL = (
    '--canvas=64x96',
    '--depth=18',
    '--dtype=float32',
    '--steps=1',
    '--repeats=1',
    '--matmul=64',
)
NOT_NEEDED = (
    'grain',
    'tensorflow_datasets',
    'orbax',
    'pycocotools',
    'cv2',
    'tensorboardX',
    'ml_collections',
)


@pytest.fixture(scope='module')
def bare_machine(tmp_path_factory):
    """An environment in which none of `NOT_NEEDED` can be imported."""
    folder = tmp_path_factory.mktemp('bare')
    (folder / 'sitecustomize.py').write_text(
        'import sys\n'
        f'sys.modules.update(dict.fromkeys({NOT_NEEDED}))  # None: ImportError\n'
    )
    own = {'PYTHONPATH': str(folder), 'XLA_FLAGS': '', 'JAX_PLATFORMS': 'cpu'}
    return {**os.environ, **own, 'JAX_ENABLE_COMPILATION_CACHE': 'true'}


@pytest.mark.parametrize(
    'work', ['inference', pytest.param('training', marks=pytest.mark.slow)]
)
def test_it_runs_on_a_machine_that_has_no_more_than_flax(bare_machine, tmp_path, work):
    for name in NOT_NEEDED:
        command = [sys.executable, '-c', f'import {name}']
        tried = subprocess.run(command, env=bare_machine, capture_output=True)
        assert b'ModuleNotFoundError' in tried.stderr, name
    file, traces = tmp_path / 'gpu.json', tmp_path / 'traces'
    own = [f'--work={work}', '--batches=2', f'--json={file}', f'--profile={traces}']
    own.append('--torch_python=no-such-python')
    done = subprocess.run(
        [sys.executable, 'benchmarks/gpu.py', *SMALL, *own],
        cwd=ROOT,
        env=bare_machine,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert 'cannot be imported by no-such-python' in done.stderr
    ceiling, result = json.loads(file.read_text())
    assert ceiling['operations_per_second'] > 0
    (line,) = [line for line in done.stdout.splitlines() if '| atss-jax |' in line]
    speed = f'{2 / result["seconds"]:.1f}'
    assert line.split(' | ')[:4] == ['| 2', work, gpu.OURS, speed]
    assert list((traces / f'{work}_2').rglob('*.pb'))


# What is measured --------------------------------------------------------------------


def test_it_measures_the_recipe():
    """Our half reads no config; what it builds instead is what the config describes."""
    recipe = build_experiment(load_config(str(ROOT / 'configs' / 'atss_r50_1x.py')))
    assert gpu_jax.build(50, 'float32') == recipe.model
    assert LossConfig() == recipe.loss
    assert DetectConfig() == recipe.detect
    assert OptimizerConfig() == recipe.optimizer
    assert LrConfig() == recipe.lr_config
    data = recipe.data['train']
    assert Normalizer() == data.normalizer
    assert data.pipeline.max_boxes == gpu_jax.MAX_BOXES
    assert recipe.total_epochs == gpu_jax.EPOCHS
    assert Job('training').mapping == recipe.parallel
    assert recipe.model.bbox_head.num_classes == gpu_work.NUM_CLASSES


def test_operations_of_a_large_canvas():
    model = gpu_jax.build(50, 'float32')
    forward = gpu_jax.forward_multiply_adds(model, (800, 1344))
    assert forward / 1e9 == pytest.approx(214.7, abs=0.1)
    training = gpu_jax.training_multiply_adds(model, (800, 1344))
    assert 2.7 < training / forward < 3


def test_operations_are_those_of_the_program_for_a_gpu():
    model, canvas = gpu_jax.build(18, 'float32'), (256, 256)
    shapes = jax.eval_shape(lambda: jax.tree.map(jnp.asarray, zero_variables(model)))
    trained, frozen = split(shapes['params'], model)

    def total(trained, frozen, stats, image, size):
        variables = {'params': merge(trained, frozen), 'batch_stats': stats}
        outputs = model.apply(variables, image, size, train=True)
        return sum(level.sum() for level in jax.tree.leaves(outputs))

    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    size = jax.ShapeDtypeStruct((1, 2), jnp.int32)
    arguments = trained, frozen, shapes['batch_stats'], image, size
    derived = sum(multiply_adds(jax.grad(total), *arguments).values())
    assert gpu_jax.training_multiply_adds(model, canvas) == derived


# Failures ----------------------------------------------------------------------------


def run_main(monkeypatch, error):
    monkeypatch.setattr(sys, 'argv', ['', '{"work": "training", "canvas": [32, 32]}'])

    def fail(job):
        raise error

    gpu_work.main(fail)


@pytest.mark.parametrize(
    'error',
    [
        RuntimeError('RESOURCE_EXHAUSTED: Out of memory while trying to allocate 9'),
        RuntimeError('CUDA out of memory. Tried to allocate 2.00 GiB'),
        MemoryError(),
    ],
)
def test_out_of_memory_is_a_result(monkeypatch, capsys, error):
    run_main(monkeypatch, error)
    assert json.loads(capsys.readouterr().out) == {'error': 'out of memory'}


def test_other_errors_are_errors(monkeypatch):
    with pytest.raises(RuntimeError, match='INTERNAL'):
        run_main(monkeypatch, RuntimeError('INTERNAL: no'))


def fake_results(monkeypatch, errors):
    """Each program at 100 images a second, torchvision at 50, except `errors`."""

    def run(program, job, python):
        if job.work == 'ceiling':
            return {'operations_per_second': 1e14, 'device': 'X', 'version': 'jax'}
        if (program, job.batch) in errors:
            return {'error': errors[program, job.batch]}
        speed = 100 if program == gpu.OURS else 50
        return {
            'seconds': job.batch / speed,
            'first_seconds': 3.0,
            'multiply_adds': 10**11,
            'peak_bytes': 2**31 if program == gpu.OURS else None,
        }

    monkeypatch.setattr(gpu, 'run', run)
    monkeypatch.setattr(gpu, '_without_torch', lambda python: None)
    words = ['gpu.py', '--batches', '8', '16', '--work', 'training', '--no_compile']
    monkeypatch.setattr(sys, 'argv', words)


def test_the_table_goes_on_after_a_batch_that_does_not_fit(monkeypatch, capsys):
    fake_results(monkeypatch, {(gpu.EAGER, 8): 'out of memory'})
    assert gpu.main() == 0
    rows = [line.strip('| ').split('|') for line in capsys.readouterr().out.split('\n')]
    rows = [[cell.strip() for cell in row] for row in rows if len(row) > 3][2:]
    numbers = ['100.0', '80.0 ms', '20%', '2.0 GiB', '3 s']
    assert rows[0] == ['8', 'training', gpu.OURS, *numbers]
    assert rows[1] == ['8', 'training', gpu.EAGER, 'out of memory']
    numbers = ['50.0', '320.0 ms', '10%', '', '3 s', '2.00']
    assert rows[3] == ['16', 'training', gpu.EAGER, *numbers]


def test_what_failed_otherwise_is_told_by_the_status(monkeypatch, capsys):
    fake_results(monkeypatch, {(gpu.OURS, 8): 'failed with status 1'})
    assert gpu.main() == 1
    assert 'failed with status 1' in capsys.readouterr().out


@pytest.mark.parametrize(
    ('flag', 'part'),
    [
        ('--canvas=800', 'expected a canvas such as 800x1344'),
        ('--canvas=800x1333', 'expected multiples of 32'),
        ('--canvas=0x32', 'expected multiples of 32'),
        ('--repeats=0', 'expected a number, at least 1'),
    ],
)
def test_flags_that_make_no_sense(monkeypatch, capsys, flag, part):
    monkeypatch.setattr(sys, 'argv', ['gpu.py', flag])
    with pytest.raises(SystemExit):
        gpu.main()
    assert part in capsys.readouterr().err
