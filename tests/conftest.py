"""Shared by all tests: virtual devices, compilation cache, shape checks, golden files.

The environment is set before jax is imported anywhere: eight virtual CPU devices, and a
compilation cache that outlives the run, since compiling is most of what tests wait for.
"""

import gc
import os
import pathlib

os.environ.setdefault('JAX_PLATFORMS', 'cpu')
os.environ['XLA_FLAGS'] = (
    os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
)
ROOT = pathlib.Path(__file__).resolve().parent.parent
os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(ROOT / '.cache' / 'jax'))
os.environ.setdefault('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0.1')

import jaxtyping  # noqa: E402

# Shapes in signatures are checked at every call that a test makes.
jaxtyping.install_import_hook(
    ['atss_jax.detection', 'atss_jax.models'], 'beartype.beartype'
)

import jax  # noqa: E402
import numpy as np  # noqa: E402
import pytest  # noqa: E402

from atss_jax.weights import mmdet  # noqa: E402


def _traced_once(function):
    """Remembers `function(model)`, a dict: models that print alike are alike."""
    results = {}

    def remembering(model):
        key = repr(model)
        if key not in results:
            results[key] = function(model)
        return dict(results[key])

    return remembering


# Nearly every test asks for the shapes of some model, which traces the whole model: a
# third of a second to four.
mmdet.variable_shapes = _traced_once(mmdet.variable_shapes)

GOLDEN = ROOT / 'tests' / 'golden'
SHARED_DATA = ROOT.parent / 'shared' / 'data'


_MOST_MAPPINGS = 20000


# Files whose tests compile whole detectors or start programs: `make test-fast` leaves
# them out. Together they take nine tenths of the time of `make test`.
LONG = {
    'commands': (
        *('test_cli', 'test_predict', 'test_demo', 'test_write_shapes'),
        'test_init',
        *('test_class_names', 'test_not_writable'),
    ),
    'config': ('test_recipes',),
    'data': ('test_bad_stream', 'test_portability', 'test_worker'),
    'detection': ('test_postprocess', 'test_losses'),
    'distributed': (
        *('test_cluster', 'test_hosts', 'test_parallel', 'test_platforms_asked_for'),
    ),
    'drawing': ('test_draw',),
    'evaluation': ('test_tta', 'test_eval_results'),
    'inference': ('test_detector', 'test_export'),
    'models': (
        *('test_accelerator', 'test_cost', 'test_deform_conv', 'test_dyhead'),
        *('test_family', 'test_model', 'test_platforms', 'test_swin'),
    ),
    'optim': ('test_accumulation',),
    'repository': (
        *('test_benchmark_input', 'test_benchmarks', 'test_benchmarks_gpu'),
        *('test_docs_run', 'test_peers', 'test_scaling_model'),
    ),
    'training': (
        *('test_bad_run', 'test_callbacks', 'test_checkpoint', 'test_convert'),
        *('test_early_stopping', 'test_finetune'),
        *('test_golden_training', 'test_kill_resume', 'test_other_platforms'),
        *('test_last_line', 'test_recipe_resume', 'test_step', 'test_stop'),
        *('test_swin_step', 'test_training', 'test_writers', 'test_zoo_weights'),
    ),
}


def pytest_collection_modifyitems(items):
    """Marks the tests of `LONG` files."""
    for item in items:
        if item.path.stem in LONG.get(item.path.parent.name, ()):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope='module', autouse=True)
def few_programs():
    """Forgets compiled programs where a process has gathered many.

    XLA on CPU maps each into memory, and Linux allows a process 65,530 mappings
    (`vm.max_map_count`). All tests together need more: the process then dies of a
    segmentation fault, in whatever test it is.
    """
    yield
    mappings = pathlib.Path('/proc/self/maps')
    if not mappings.exists():
        return  # not Linux: no such limit
    with mappings.open() as lines:
        count = sum(1 for _ in lines)
    if count > _MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope='session')
def golden():
    """Loads `tests/golden/NAME.npz`: `golden('anchors')['default/0']`."""
    return lambda name: np.load(GOLDEN / f'{name}.npz')


@pytest.fixture(scope='session')
def coco_tiny():
    """Folder of 160 COCO images; they are not part of the repository."""
    folder = SHARED_DATA / 'coco_tiny'
    if not folder.exists():
        pytest.skip('needs ../shared/data/coco_tiny')
    return folder


@pytest.fixture(scope='session')
def small_data(tmp_path_factory):
    """Folder of a small COCO data set: 21 training and 9 evaluation images."""
    from tests.support.small_run import write_coco

    folder = tmp_path_factory.mktemp('small_data')
    write_coco(folder, 'train', 21, seed=0)
    write_coco(folder, 'val', 9, seed=1)
    return folder


@pytest.fixture(scope='session')
def small_run(small_data, tmp_path_factory):
    """A finished training run on it. Tests that write to its workdir copy it first."""
    from tests.support.small_run import finished_run

    return finished_run(small_data, tmp_path_factory.mktemp('small_run') / 'workdir')


@pytest.fixture
def call(capsys, monkeypatch):
    """`call('train', '--config=...')`, `call('atss', 'draw', ...)`: their `Result`.

    Commands that compute alike share compiled programs.
    """
    from tests.support.command_line import make_call
    from tests.support.small_run import share_predictions, share_steps

    share_steps(monkeypatch)
    share_predictions(monkeypatch)
    return make_call(capsys, monkeypatch)
