"""Loads configs: config files, shipped configs, overrides, the copy in a workdir.

The fields themselves are read in `experiment.py`, each once; a field that nothing reads
is an error.
"""

import ast
import contextlib
import difflib
import importlib.util
import json
import os
import pathlib
import sys
import types
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from atss_jax import configs
from atss_jax.config.experiment import Experiment, build
from atss_jax.config.model import COMPANIONS
from atss_jax.config.tree import closest, flatten, is_section_list
from atss_jax.files.atomic import read_given_json, read_json
from atss_jax.models.detector import ATSS


def load_config(
    path: str | os.PathLike, overrides: Mapping[str, Any] | None = None
) -> ConfigDict:
    """Runs `get_config()` of a config file, applies overrides and checks every field.

    Args:
        path: a Python file with `get_config()`, a JSON file as saved in a workdir, or
            the name of a shipped config: 'atss_r50_1x'.
        overrides: dotted path to value: `{'model.bbox_head.num_classes': 3}`. A mapping
            replaces a whole section, and None switches an optional one off.

    Raises:
        ValueError: no such file; a field is unknown, missing or not supported.
    """
    file = config_file(path)
    if file.suffix == '.json':
        config = _read_json_config(file)
    else:
        config = _run_config_file(file).to_dict()
    config = _copy(config)
    for name, value in (overrides or {}).items():
        _override(config, name, value)
    build(config)
    return ConfigDict(config)


# Files --------------------------------------------------------------------------------


def shipped_configs() -> dict[str, pathlib.Path]:
    """The files of all shipped configs by name."""
    folders = [pathlib.Path(folder) for folder in configs.__path__]
    files = [file for folder in folders for file in sorted(folder.glob('[!_]*.py'))]
    return {file.stem: file for file in files}


def config_file(path: str | os.PathLike) -> pathlib.Path:
    """The file at `path`, or that of the shipped config of this name.

    Raises:
        ValueError: there is neither; lists the shipped configs.
    """
    file, shipped = pathlib.Path(path).expanduser(), shipped_configs()
    if str(file) in shipped:
        return shipped[str(file)]
    if not file.is_file():
        raise ValueError(
            f'no config file at {file}; expected a .py or .json file, or the name of a '
            f'shipped config{_list_shipped(file.stem)}'
        )
    return file


def _list_shipped(name):
    """Lists the shipped configs for messages, and suggests the most similar name."""
    shipped = shipped_configs()
    matches = difflib.get_close_matches(name, shipped, n=1)
    hint = f"; did you mean '{matches[0]}'?" if matches else ''
    return f' ({", ".join(shipped)}){hint}'


def _read_json_config(file):
    is_of_run = file.name == 'config.json' and (file.parent / 'checkpoints').is_dir()
    config = read_json(file) if is_of_run else read_given_json(file)
    if not isinstance(config, dict):
        raise ValueError(
            f'{file} is no config: expected an object with the sections of a config, '
            f'found a {type(config).__name__}'
        )
    return config


def _run_config_file(file):
    spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
    if spec is None:
        raise ValueError(f'{file} is no config: expected a .py or .json file')
    module = importlib.util.module_from_spec(spec)
    with _other_configs_importable(file):
        try:
            spec.loader.exec_module(module)
        except ImportError as error:
            module_name = (error.name or '').removeprefix('atss_jax.')
            if module_name.partition('.')[0] != 'configs':
                raise
            # Since Python 3.12 the error knows the name that the package lacks.
            name = getattr(error, 'name_from', None) or module_name.rpartition('.')[2]
            raise ValueError(
                f'{file}: {error}; the shipped configs are imported with `from '
                f'atss_jax.configs import NAME`{_list_shipped(name)}'
            ) from error
        if not hasattr(module, 'get_config'):
            raise ValueError(f'{file} has no get_config()')
        return module.get_config()


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


# Fields -------------------------------------------------------------------------------


def _copy(section):
    """Copies all dicts: a section that two fields share becomes two."""
    if isinstance(section, Mapping):
        return {name: _copy(value) for name, value in section.items()}
    if is_section_list(section):
        return [_copy(value) for value in section]
    return section


def _inner(section, name):
    """The section or list of sections `name` inside a section; None: there is none."""
    if is_section_list(section) and name.isdigit() and int(name) < len(section):
        return section[int(name)]
    inner = section.get(name) if isinstance(section, dict) else None
    return inner if isinstance(inner, dict) or is_section_list(inner) else None


def _override(config, path, value):
    *parents, name = path.split('.')
    section = config
    for parent in parents:
        if isinstance(section, dict) and section.get(parent, {}) is None:
            section[parent] = {}  # an optional section, which its fields switch on
        section = _inner(section, parent)
        if section is None:
            break
    if not isinstance(section, dict):
        raise ValueError(
            f"config has no section for '{path}'{closest(path, flatten(config))}"
        )
    old = section.get(name)
    is_section = isinstance(value, Mapping) or is_section_list(value)
    # None switches an optional section off; `Reader` refuses it for the others.
    if isinstance(old, dict) and not is_section and value is not None:
        raise ValueError(f"'{path}' is a section; set one of its fields {sorted(old)}")
    section[name] = _copy(value)
    if value is None and path in COMPANIONS:
        section.pop(COMPANIONS[path], None)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """`['--config.optimizer.lr=0.02', ...]` as a dict for `load_config`.

    Values are Python literals; anything else is text (`work_dirs/x`).

    Raises:
        ValueError: an argument of another form.
    """
    overrides = {}
    for argument in arguments:
        name, equals, value = argument.partition('=')
        if not name.startswith('--config.') or not equals:
            raise ValueError(
                f'unknown argument {argument}; config fields are set by '
                '--config.FIELD=VALUE, with = and no space'
            )
        try:
            overrides[name.removeprefix('--config.')] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            overrides[name.removeprefix('--config.')] = value
    return overrides


def to_json(config: ConfigDict | Mapping[str, Any]) -> str:
    """The config as text, the same for equal configs."""
    return json.dumps(as_dict(config), indent=2, sort_keys=True)


def as_dict(config: ConfigDict | Mapping[str, Any]) -> dict[str, Any]:
    """The config as plain dicts."""
    return _copy(config.to_dict() if isinstance(config, ConfigDict) else config)


def build_experiment(config: ConfigDict | Mapping[str, Any]) -> Experiment:
    """Everything the config describes, checked and built. Opens no files."""
    return build(as_dict(config))


def build_model(config: ConfigDict | Mapping[str, Any]) -> ATSS:
    """The Flax module that `config.model` describes."""
    return build_experiment(config).model
