"""Arrows between modules point one way, and workers load no more than they need.

The layers are those of the design: arrays in and out at the bottom, programs on top.
"""

import ast
import subprocess
import sys

import pytest

from tests.conftest import ROOT

STANDARD = set(sys.stdlib_module_names)
MAPPING = {'numpy', 'jaxtyping', 'jax'}
TFDS = {'tensorflow_datasets', 'array_record', 'etils'}
TRAINING_LIBRARIES = MAPPING | {'flax', 'optax', 'orbax', 'tensorboardX', 'tqdm'}

# Module or package: what it may import of the package, and which libraries. The longest
# name that fits a module decides. Programs (see below) are above them all.
ALLOWED = {
    'structures': (set(), MAPPING),
    'sizes': (set(), MAPPING),
    'checks': (set(), set()),
    'lock': (set(), set()),
    'wording': (set(), set()),
    'download': ({'lock'}, {'tqdm'}),
    'detection': ({'structures', 'sizes', 'detection'}, MAPPING),
    'models': ({'structures', 'sizes', 'models'}, MAPPING | {'flax'}),
    'data': ({'data'}, {'numpy', 'jaxtyping', 'cv2', 'grain', 'absl', 'tqdm'}),
    'data.coco_download': ({'download', 'lock'}, {'tqdm'}),
    'data.tfds_files': ({'data'}, TFDS),
    'data.tfds_records': ({'data'}, {'numpy'} | TFDS),
    'data.tfds_scan': ({'data'}, {'numpy', 'tqdm'}),
    'data.tfds_index': ({'data', 'download'}, {'numpy', 'etils'}),
    'data.tfds_prepare': ({'data', 'lock'}, {'numpy', 'tqdm'} | TFDS),
    'weights': ({'weights', 'download'}, {'numpy', 'ml_dtypes', 'safetensors'}),
    # Asks Flax for the shapes of a model's variables; computes nothing.
    'weights.mmdet': ({'weights'}, {'numpy', 'flax', 'jax'}),
    'mmdet_config': ({'mmdet_config'}, set()),
    'lettering': (set(), {'numpy', 'cv2'}),
    'ahead': (set(), set()),
    'cost': ({'models'}, MAPPING | {'flax'}),
    'image_list': (set(), set()),
    'image_ids': ({'data', 'image_list'}, set()),
    'results': (set(), {'numpy', 'supervision'}),
    'inference': (
        {'structures', 'data', 'detection', 'models', 'evaluation'},
        MAPPING,
    ),
    'tags': ({'lettering'}, {'numpy'}),
    'visualize': ({'lettering', 'tags'}, {'numpy', 'cv2'}),
    'plot': ({'lettering'}, {'numpy', 'cv2'}),
    'draw_run': ({'plot', 'visualize', 'training'}, {'numpy'}),
    'cluster': (set(), set()),
    'hosts': (set(), MAPPING),
    'parallel': ({'models', 'cluster', 'hosts'}, MAPPING),
    'command_line': ({'parallel', 'hosts'}, {'jax', 'absl'}),
    'training': (
        {'structures', 'detection', 'models', 'data', 'weights', 'parallel', 'checks'}
        | {'training', 'hosts', 'lock', '__init__'},
        TRAINING_LIBRARIES,
    ),
    'evaluation': (
        {'structures', 'detection', 'models', 'data', 'parallel', 'visualize'}
        | {'evaluation', 'hosts', 'wording'},
        MAPPING | {'flax', 'tqdm', 'pycocotools', 'cv2'},
    ),
    'config_model': ({'checks', 'detection', 'models'}, set()),
    'config_data': ({'checks', 'data', 'models'}, set()),
    'experiment': (
        {'checks', 'config_data', 'config_model', 'detection', 'models', 'training'}
        | {'parallel', 'data'},
        set(),
    ),
    'config': ({'checks', 'experiment', 'models'}, {'ml_collections'}),
}


def module_name(path):
    parts = path.relative_to(ROOT / 'atss_jax').with_suffix('').parts
    return '.'.join(part for part in parts if part != '__init__')


MODULES = {
    module_name(path): path
    for path in sorted((ROOT / 'atss_jax').rglob('*.py'))
    if module_name(path)
}


def imports(path):
    """Absolute names of all that a file imports, wherever the statement stands."""
    names = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f'{path}:{node.lineno}: relative import'
            names += [f'{node.module}.{alias.name}' for alias in node.names]
    return names


def own_module(name):
    """The module of the package that an imported name lies in; None: not of it."""
    package, *parts = name.split('.')
    if package != 'atss_jax':
        return None
    while parts and '.'.join(parts) not in MODULES:
        parts.pop()
    return '.'.join(parts)


def is_within(module, layer):
    return module == layer or module.startswith(f'{layer}.')


def own_imports(module):
    found = {own_module(name) for name in imports(MODULES[module])}
    return sorted(found - {None, ''})


def find_programs():
    """Modules over a whole config: what imports `config`, and what imports that.

    They may stand in `training`, `evaluation` and at the top, nowhere else.
    """
    below = set(ALLOWED) - {'training', 'evaluation'}
    programs = {'config', 'experiment'}
    while True:
        found = {
            module
            for module in MODULES
            if not any(is_within(module, layer) for layer in below)
            and programs & set(own_imports(module))
        }
        if found <= programs:
            return programs - {'config', 'experiment'}
        programs |= found


PROGRAMS = find_programs()


@pytest.mark.parametrize('module', sorted(set(MODULES) - PROGRAMS))
def test_no_arrow_points_back(module):
    fitting = [layer for layer in ALLOWED if is_within(module, layer)]
    assert fitting, f'{module} is in no layer: add it to ALLOWED'
    layers, libraries = ALLOWED[max(fitting, key=len)]
    for name in imports(MODULES[module]):
        own = own_module(name)
        if own is None:
            library = name.split('.')[0]
            assert library in STANDARD | libraries, f'{module} imports {name}'
        elif own:
            assert any(is_within(own, layer) for layer in layers), (
                f'{module} imports {own}: the arrow points back'
            )
            assert own not in PROGRAMS, f'{module} imports the program {own}'


def test_no_module_imports_itself_through_others():
    done, path = set(), []

    def visit(module):
        if module in done:
            return
        assert module not in path, ' -> '.join([*path, module])
        path.append(module)
        for other in own_imports(module):
            if other != module:
                visit(other)
        path.pop()
        done.add(module)

    for module in MODULES:
        visit(module)


FILES = sorted(MODULES.values()) + sorted(ROOT.glob('*.py'))


@pytest.mark.parametrize('path', FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_neither_tensorflow_nor_torch(path):
    libraries = {name.split('.')[0] for name in imports(path)}
    assert not libraries & {'tensorflow', 'torch', 'torchvision', 'tensorboard', 'clu'}


def loaded_by(*modules):
    """Top-level modules in a fresh interpreter that has imported `modules` alone."""
    names = ', '.join(modules)
    code = f'import sys, {names}; print(*{{m.split(".")[0] for m in sys.modules}})'
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return set(done.stdout.split())


def test_data_starts_no_device():
    """What workers load; grain itself imports jax, but nothing may start a backend."""
    modules = [f'atss_jax.{name}' for name in MODULES if name.startswith('data.')]
    code = (
        f'import sys, {", ".join(modules)}\n'
        'bridge = sys.modules.get("jax._src.xla_bridge")\n'
        'print(bool(bridge and bridge._backends))'
    )
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == 'False'


def test_numpy_modules_load_no_jax():
    names = ['data.transforms', 'data.plan', 'data.coco', 'data.shapes', 'weights.pth']
    loaded = loaded_by(*(f'atss_jax.{name}' for name in names))
    assert not loaded & {'jax', 'jaxlib', 'flax', 'tensorflow', 'torch'}


def test_training_loads_no_tensorflow():
    loaded = loaded_by('atss_jax.training.loop')
    assert not loaded & {'tensorflow', 'torch'}
