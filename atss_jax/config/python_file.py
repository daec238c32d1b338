"""Config files in Python: runs `get_config()`, and finds the configs it imports.

A config file is a user's own program. Whatever it raises, `sys.exit()` included,
becomes a ValueError with the file and the line.
"""

import contextlib
import difflib
import importlib.util
import linecache
import pathlib
import re
import sys
import traceback
import types
from collections.abc import Iterator, Mapping
from typing import Any

from atss_jax import configs
from atss_jax.config.fields import shortened


class MissingModule(ValueError, ModuleNotFoundError):
    """A config file imports a module that there is not."""


def shipped_configs() -> dict[str, pathlib.Path]:
    """The files of all shipped configs by name."""
    folders = [pathlib.Path(folder) for folder in configs.__path__]
    files = [file for folder in folders for file in sorted(folder.glob('[!_]*.py'))]
    return {file.stem: file for file in files}


def list_shipped(name: str) -> str:
    """Lists the shipped configs for messages, and suggests the most similar name."""
    shipped = shipped_configs()
    matches = difflib.get_close_matches(name, shipped, n=1)
    hint = f"; did you mean '{matches[0]}'?" if matches else ''
    return f' ({", ".join(shipped)}){hint}'


def run(file: pathlib.Path) -> dict[str, Any]:
    """What `get_config()` of a Python file returns, as plain dicts.

    Raises:
        ValueError: it is no config, or its code raises an error.
    """
    spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
    if spec is None:
        raise ValueError(f'{file} is no config: expected a .py or .json file')
    module = importlib.util.module_from_spec(spec)
    with _errors_of_user(file), _other_configs_importable(file):
        spec.loader.exec_module(module)
        if callable(get_config := getattr(module, 'get_config', None)):
            config = _plain(get_config())
    if not callable(get_config):
        raise ValueError(f'{file} has no get_config(){_hint_for_mmdet(module)}')
    if not isinstance(config, dict):
        raise ValueError(
            f'{file}: get_config() returns {shortened(config)}, expected a ConfigDict '
            'or a dict'
        )
    return config


def _plain(section):
    """A ConfigDict or dict, also inside of others, as plain dicts."""
    if hasattr(section, 'to_dict'):
        section = section.to_dict()
    if isinstance(section, Mapping):
        return {name: _plain(value) for name, value in section.items()}
    if isinstance(section, tuple | list):
        return type(section)(map(_plain, section))
    return section


def _hint_for_mmdet(module):
    if hasattr(module, '_base_') or isinstance(getattr(module, 'model', None), dict):
        return '; configs of mmdetection are translated by `atss import-mmdet`'
    return ''


@contextlib.contextmanager
def _errors_of_user(file) -> Iterator[None]:
    """Turns what the code of a config file raises into a ValueError."""
    try:
        yield
    except SyntaxError as error:
        place = error.filename or file
        place = f'{place}, line {error.lineno}' if error.lineno else place
        raise ValueError(f'{place}: {error.msg}{_quoted(error.text)}') from error
    except (Exception, SystemExit) as error:  # or the program would end silently
        is_missing = isinstance(error, ModuleNotFoundError)
        kind = MissingModule if is_missing else ValueError
        raise kind(_message(file, error)) from error


def _message(file, error):
    lines = [
        frame.lineno
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename == str(file.absolute())
    ]
    reason, hint = shortened(' '.join(str(error).split()), str), ''
    name = (getattr(error, 'name', None) or '').removeprefix('atss_jax.')
    if isinstance(error, ImportError) and name.partition('.')[0] == 'configs':
        # Only since Python 3.12 has the error a field for what the package lacks.
        named = re.search(r"cannot import name '(\w+)'", error.msg)
        missing = named[1] if named else name.rpartition('.')[2]
        hint = (
            '; the shipped configs are imported with `from atss_jax.configs import '
            f'NAME`{list_shipped(missing)}'
        )
    elif not isinstance(error, ImportError):
        reason = ': '.join(filter(None, [type(error).__name__, reason]))
    if not lines:
        return f'{file}: {reason}{hint}'
    quoted = _quoted(linecache.getline(str(file.absolute()), lines[-1]))
    return f'{file}, line {lines[-1]}: {reason}{quoted}{hint}'


def _quoted(line):
    return f' in `{shortened(line.strip(), str)}`' if line and line.strip() else ''


@contextlib.contextmanager
def _other_configs_importable(file):
    """Lets a config file import other configs, wherever the program runs.

    `from configs import ...` finds those in a folder `configs` that contains the file
    or is next to the file's folder, and the shipped ones. `from FOLDER import ...`
    finds the other files in the file's folder.
    """
    root = file.absolute().parent.parent
    package = types.ModuleType('configs')
    package.__path__ = [str(root / 'configs'), *configs.__path__]
    outside = _forget_configs()
    sys.modules['configs'] = package
    sys.path.append(str(root))
    try:
        yield
    finally:
        sys.path.remove(str(root))
        _forget_configs()
        sys.modules.update(outside)


def _forget_configs():
    """Removes `configs` and its modules from those imported, and returns them."""
    names = [name for name in sys.modules if name.partition('.')[0] == 'configs']
    return {name: sys.modules.pop(name) for name in names}
