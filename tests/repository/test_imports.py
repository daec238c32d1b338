"""Rooms import only rooms above them, and processes load no more than they need."""

import ast
import subprocess
import sys
import tomllib

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / 'atss_jax'

# From top to bottom: a room imports itself, rooms above it, and `structures`.
ROOMS = (
    'files',
    'detection',
    'models',
    'optim',
    'data',
    'weights',
    'mmdet_config',
    'distributed',
    'config',
    'tuning',
    'training',
    'evaluation',
    'review',
    'inference',
    'compilation',
    'drawing',
    'report',
    'commands',
)
# The public names, a former one, and the shipped configs: not part of the order.
ENTRANCES = ('__init__', '__main__', 'structures', 'api')

MATHS = {'jax', 'jaxtyping', 'numpy'}
# Libraries that a room may use, in addition to the standard library.
LIBRARIES = {
    'structures': MATHS,
    'files': {'filelock', 'tqdm'},
    'detection': MATHS,
    'models': MATHS | {'flax'},
    'optim': MATHS | {'optax'},
    'data': {'numpy', 'jaxtyping', 'cv2', 'tqdm', 'yaml', 'msgspec'}
    | {'tensorflow_datasets', 'array_record', 'etils'}
    | {'datasets', 'pyarrow'},
    'weights': {'numpy', 'ml_dtypes', 'safetensors', 'flax', 'jax', 'huggingface_hub'},
    'mmdet_config': set(),
    'distributed': MATHS,
    'config': {'ml_collections', 'jax'},
    'tuning': MATHS,
    'training': MATHS
    | {'flax', 'optax', 'orbax', 'tensorboardX', 'tqdm', 'ml_collections', 'cv2'}
    | {'wandb', 'mlflow', 'trackio'},
    'evaluation': MATHS | {'flax', 'tqdm', 'pycocotools', 'hotcoco'},
    'review': {'numpy'},
    'inference': MATHS | {'supervision', 'cv2', 'onnx', 'onnxruntime'},
    'compilation': MATHS | {'flax', 'jaxlib'},
    'drawing': {'jax', 'numpy', 'cv2', 'tensorboardX'},
    'report': {'numpy', 'cv2'},
    'commands': {'absl', 'cv2', 'jax', 'ml_collections', 'numpy', 'tqdm'},
}


def files_of(room):
    return sorted((PACKAGE / room).rglob('*.py'))


FILES = [
    PACKAGE / 'structures.py',
    *(path for room in ROOMS for path in files_of(room)),
]


def room_of(path):
    return path.relative_to(PACKAGE).with_suffix('').parts[0]


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


def name_of(path):
    return str(path.relative_to(ROOT))


def test_every_folder_is_a_room_and_nothing_else_stands_at_the_root():
    assert {path.stem for path in PACKAGE.glob('*.py')} == {
        '__init__',
        '__main__',
        'structures',
    }
    folders = {path.parent.name for path in PACKAGE.glob('*/__init__.py')}
    assert folders == {*ROOMS, 'api', 'configs'}


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_a_room_imports_only_rooms_above_it(path):
    room = room_of(path)
    above = ROOMS[: ROOMS.index(room) + 1] if room in ROOMS else ()
    for name in imports(path):
        package, *parts = name.split('.')
        if package == 'atss_jax':
            allowed = {*above, 'structures'}
            if room == 'commands':
                allowed |= {'__version__'}
            if room == 'config':
                allowed |= {'configs'}
            other = parts[0] if parts else '__init__'
            is_package = not parts and room in ('commands', 'training')
            assert other in allowed or is_package, f'{name_of(path)} imports {name}'


@pytest.mark.parametrize('path', FILES, ids=name_of)
def test_a_room_uses_its_libraries_only(path):
    allowed = LIBRARIES[room_of(path)] | set(sys.stdlib_module_names) | {'atss_jax'}
    assert {name.split('.')[0] for name in imports(path)} <= allowed


def test_no_module_imports_itself_through_others():
    modules = {}
    for path in PACKAGE.rglob('*.py'):
        parts = path.relative_to(ROOT).with_suffix('').parts
        modules['.'.join(part for part in parts if part != '__init__')] = path

    def imported_at_load(path):
        """Modules of the package that loading this one loads."""
        found = set()
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ImportFrom) and node.module.startswith('atss_jax'):
                for alias in node.names:
                    full = f'{node.module}.{alias.name}'
                    found.add(full if full in modules else node.module)
        return sorted(found)

    done, trail = set(), []

    def visit(module):
        if module in done:
            return
        assert module not in trail, ' -> '.join([*trail, module])
        trail.append(module)
        for other in imported_at_load(modules[module]):
            if other != module:
                visit(other)
        trail.pop()
        done.add(module)

    for module in modules:
        visit(module)


def test_names_of_files_are_distinct_between_rooms():
    """Two files of one name play the same part: each pair is listed here."""
    same_part = {
        '__init__',
        'dataset',  # coco, tfds, shapes: each one's Source
        'boxes',  # detection, drawing: arithmetic on boxes, boxes drawn
        'detector',  # models, inference: the module, the trained detector
        'data',  # config, mmdet_config: the data section
        'model',  # config, mmdet_config: the model section
        'schedule',  # optim, mmdet_config: learning rates
        'export',  # inference, commands: the work and its command
        'convert',  # training, commands
        # models or detection, onnx_file: the function, its writer
        *('region', 'layers', 'norms', 'linear', 'resnet', 'swin'),
        *('window_attention', 'fpn', 'dyhead'),
        *('atss_head', 'postprocess'),
    }
    seen = {}
    for path in FILES:
        if path.stem not in same_part:
            assert path.stem not in seen, (name_of(path), name_of(seen[path.stem]))
            seen[path.stem] = path


@pytest.mark.parametrize('path', [*FILES, *sorted(ROOT.glob('*.py'))], ids=name_of)
def test_neither_tensorflow_nor_torch(path):
    libraries = {name.split('.')[0] for name in imports(path)}
    assert not libraries & {'tensorflow', 'torch', 'torchvision', 'tensorboard', 'clu'}


def test_the_wheel_lists_every_package():
    with (ROOT / 'pyproject.toml').open('rb') as file:
        listed = tomllib.load(file)['tool']['setuptools']['packages']
    folders = [path.parent.relative_to(ROOT) for path in PACKAGE.rglob('__init__.py')]
    expected = {'.'.join(folder.parts) for folder in folders} | {'atss_jax.configs'}
    assert set(listed) == expected


def run_python(code):
    done = subprocess.run(
        [sys.executable, '-c', code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def loaded_by(*modules):
    """Top-level modules in a fresh interpreter that has imported `modules` alone."""
    names = ', '.join(modules)
    code = f'import sys, {names}; print(*{{m.split(".")[0] for m in sys.modules}})'
    return set(run_python(code).split())


def test_the_package_and_its_help_load_no_library():
    loaded = loaded_by('atss_jax', 'atss_jax.commands.main')
    assert not loaded & {'jax', 'numpy', 'flax', 'cv2', 'ml_collections'}


def test_data_starts_no_device():
    """What workers load; it imports jax, but nothing may start a backend."""
    modules = [
        '.'.join(path.relative_to(ROOT).with_suffix('').parts)
        for path in files_of('data')
        if path.stem != '__init__'
    ]
    code = (
        f'import sys, {", ".join(modules)}\n'
        'bridge = sys.modules.get("jax._src.xla_bridge")\n'
        'print(bool(bridge and bridge._backends))'
    )
    assert run_python(code) == 'False'


def test_numpy_modules_load_no_jax():
    names = (
        'data.transforms',
        'data.plan',
        'data.coco.dataset',
        'data.shapes.dataset',
        'weights.torch_file.pth',
    )
    loaded = loaded_by(*(f'atss_jax.{name}' for name in names))
    assert not loaded & {'jax', 'jaxlib', 'flax', 'tensorflow', 'torch'}


def test_training_loads_no_tensorflow():
    loaded = loaded_by('atss_jax.training.loop')
    assert not loaded & {'tensorflow', 'torch'}


def test_the_order_is_that_of_the_folders():
    """Every room has an `__init__` that says in a sentence what it is for."""
    for room in ROOMS:
        text = ast.get_docstring(
            ast.parse((PACKAGE / room / '__init__.py').read_text())
        )
        assert text and text.endswith('.'), room
