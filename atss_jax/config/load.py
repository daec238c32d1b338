"""Loads configs: files, overrides, the copy in a workdir.

Fields are read in `experiment.py` alone, each once; one that nothing reads is an error.
"""

import ast
import importlib.util
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from atss_jax.config.experiment import Experiment, build
from atss_jax.config.sections import closest, flatten, is_sections
from atss_jax.files.atomic import read_json
from atss_jax.models.detector import ATSS


def load_config(path: str, overrides: Mapping[str, Any] | None = None) -> ConfigDict:
    """Runs `get_config()` of a config file, applies overrides and checks every field.

    Args:
        path: a Python file with `get_config()`, or a JSON file as saved in a workdir.
        overrides: dotted path to value: `{'model.bbox_head.num_classes': 3}`. A mapping
            replaces a whole section.

    Raises:
        ValueError: no such file; a field is unknown, missing or not supported.
    """
    file = pathlib.Path(path)
    if not file.is_file():
        raise ValueError(f'no config file at {path}')
    if file.suffix == '.json':
        config = read_json(file)
    else:
        config = _run_config_file(file).to_dict()
    config = _own_copy(config)
    for name, value in (overrides or {}).items():
        _override(config, name, value)
    build(config)
    return ConfigDict(config)


def _run_config_file(file):
    spec = importlib.util.spec_from_file_location(f'config_{file.stem}', file)
    if spec is None:
        raise ValueError(f'{file} is no config: expected a .py or .json file')
    module = importlib.util.module_from_spec(spec)
    # Configs build on others by `from configs import ...`, wherever we are run from.
    root = str(file.absolute().parent.parent)
    sys.path.append(root)
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(root)
    if not hasattr(module, 'get_config'):
        raise ValueError(f'{file} has no get_config()')
    return module.get_config()


def _own_copy(section):
    """Dicts anew, so that no section is shared and an override changes one place."""
    if isinstance(section, Mapping):
        return {name: _own_copy(value) for name, value in section.items()}
    if is_sections(section):
        return [_own_copy(value) for value in section]
    return section


def _inner(section, name):
    """The section `name` of a section; None: there is none."""
    if is_sections(section) and name.isdigit() and int(name) < len(section):
        return section[int(name)]
    inner = section.get(name) if isinstance(section, dict) else None
    return inner if isinstance(inner, dict) or is_sections(inner) else None


def _override(config, path, value):
    *parents, name = path.split('.')
    section = config
    for parent in parents:
        section = _inner(section, parent)
        if section is None:
            break
    if not isinstance(section, dict):
        raise ValueError(
            f"config has no section for '{path}'{closest(path, flatten(config))}"
        )
    old = section.get(name)
    is_section = isinstance(value, Mapping) or is_sections(value)
    if isinstance(old, dict) and not is_section:
        raise ValueError(f"'{path}' is a section; set one of {sorted(old)}")
    section[name] = _own_copy(value)


def parse_overrides(arguments: list[str]) -> dict[str, Any]:
    """`['--config.optimizer.lr=0.02', ...]` as a dict for `load_config`.

    Values are Python literals; what is none is text (`work_dirs/x`).

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
    return _own_copy(config.to_dict() if isinstance(config, ConfigDict) else config)


def build_experiment(config: ConfigDict | Mapping[str, Any]) -> Experiment:
    """Everything the config describes, checked and built. Opens no files."""
    return build(as_dict(config))


def build_model(config: ConfigDict | Mapping[str, Any]) -> ATSS:
    """The Flax module that `config.model` describes."""
    return build_experiment(config).model
