"""Loads configs: config files, shipped configs, overrides, the copy in a workdir.

The fields themselves are read in `experiment.py`, each once; a field that nothing reads
is an error.
"""

import ast
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from atss_jax.config.experiment import SPLITS, Experiment, build
from atss_jax.config.fields import COMPANIONS, with_added_fields
from atss_jax.config.own_data import use_found_data
from atss_jax.config.python_file import list_shipped, run, shipped_configs
from atss_jax.config.tree import closest, flatten, is_section_list
from atss_jax.data.augment.user_function import name_of
from atss_jax.data.forms.finder import Finder
from atss_jax.files.atomic import read_given_json, read_json
from atss_jax.models.detector import ATSS


def load_config(
    path: str | os.PathLike,
    overrides: Mapping[str, Any] | None = None,
    data: str | None = None,
    finder: Finder | None = None,
) -> ConfigDict:
    """Runs `get_config()` of a config file, applies overrides and checks every field.

    Fields that an earlier version did not have yet are added.

    Args:
        path: a Python file with `get_config()`, a JSON file as saved in a workdir, or
            the name of a shipped config: 'atss_r50_1x'.
        overrides: dotted path to value: `{'model.bbox_head.num_classes': 3}`. A mapping
            replaces a whole section, and None switches an optional one off.
        data: folder, annotation file or address of the data to use in place of those
            that the file names, before the overrides; see `own_data.use_found_data`.
        finder: may have found or read `data` already.

    Raises:
        FileNotFoundError: there is nothing at `data`.
        ValueError: no such file; a field is unknown, missing or not supported.
    """
    file = config_file(path)
    config = _read_json_config(file) if file.suffix == '.json' else run(file)
    config = _copy(config)
    if data is not None:
        on_error = (overrides or {}).get('data.on_error')
        use_found_data(config, data, on_error, finder)
    config = with_added_fields(config)  # so that an override can be in such a section
    for name, value in (overrides or {}).items():
        _override(config, name, value)
    config = with_added_fields(config)  # which a section of the overrides may lack
    build(config)
    return ConfigDict(config)


# Files --------------------------------------------------------------------------------


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
            f'shipped config{list_shipped(file.stem)}'
        )
    return file


def _read_json_config(file):
    is_of_run = file.name == 'config.json' and (file.parent / 'checkpoints').is_dir()
    config = read_json(file) if is_of_run else read_given_json(file)
    if not isinstance(config, dict):
        raise ValueError(
            f'{file} is no config: expected an object with the sections of a config, '
            f'found a {type(config).__name__}'
        )
    return config


# Fields -------------------------------------------------------------------------------


def _copy(section):
    """Copies all dicts: a section that two fields share becomes two.

    A function in a field `function` becomes its name, by which worker processes and a
    resumed run find it. Names with dots become sections in sections, since a ConfigDict
    has no dots in names (`custom_keys={'backbone.norm': ...}`).
    """
    if isinstance(section, Mapping):
        copied = {}
        for name, value in section.items():
            if name == 'function' and callable(value):
                value = name_of(value)
            _nest(copied, str(name).split('.'), _copy(value))
        return copied
    if is_section_list(section):
        return [_copy(value) for value in section]
    return section


def _nest(section, names, value):
    """Sets `section[names[0]][names[1]]...`; merges two sections of the same name."""
    *parents, last = names
    for depth, parent in enumerate(parents):
        section = section.setdefault(parent, {})
        if not isinstance(section, dict):
            raise ValueError(
                f"config has '{'.'.join(names[: depth + 1])}' both as a value and as a "
                f"section with '{last}'"
            )
    if isinstance(section.get(last), dict) and isinstance(value, dict):
        for name, inner in value.items():
            _nest(section[last], [name], inner)
    else:
        section[last] = value


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


def check_section(
    overrides: Mapping[str, Any] | None, split: str, use: str, choice: str = ''
) -> None:
    """Checks that overrides of the data are those of the section that is used.

    Those of other sections are in order next to one of this section: some fields must
    be the same in all of them.

    Args:
        overrides: dotted path to value.
        split: the section of `data` that is used.
        use: what it is used for, for the message: 'is scored'.
        choice: how to use another one, with `{}` in place of its name.

    Raises:
        ValueError: only sections that are not used are changed.
    """
    fields = [tuple(path.split('.')) for path in overrides or {}]
    changed = [x for x in fields if x[0] == 'data' and x[1:2] and x[1] in SPLITS]
    if not changed or any(section == split for _, section, *_ in changed):
        return
    _, section, *rest = changed[0]
    raise ValueError(
        f'config.{".".join(changed[0])} has no effect, since data.{split} {use}; set '
        f'--config.{".".join(["data", split, *rest])} instead{choice.format(section)}'
    )


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
