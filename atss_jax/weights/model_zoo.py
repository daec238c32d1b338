"""Trained detectors by name: the models of `model_zoo.json`, and those of the user.

The file is data: a new model is one more entry. Its fields are those of `Model`; what
need not be known is null or left out.
"""

import dataclasses
import difflib
import json
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from atss_jax.files import cached
from atss_jax.files.atomic import read_given_json

SCHEME = 'mmdet://'
"""Before the name of a model where a path could be meant: `mmdet://NAME`."""

FILES_VARIABLE = 'ATSS_JAX_MODELS'
"""Environment variable with more files in the form of `model_zoo.json`.

Paths are separated as in PATH. Their models replace those of the same name.
"""

_FILE = pathlib.Path(__file__).with_suffix('.json')


@dataclasses.dataclass(frozen=True)
class Model:
    """A trained detector that can be downloaded.

    Attributes:
        name: the name that users call it by.
        config: name of a shipped config, or path of a config file (relative to the file
            of models).
        addresses: http or https addresses of the weights, the first to be asked first.
        sha256: SHA-256 of the file, or its first digits (8 or more).
        classes: class names in the order of the labels, or 'COCO' for the 80 of COCO.
        ap: AP on COCO val2017 that was published for it.
        ap_by: who published it.
        source: address of the page where it was published.
        parameters: number of parameters, frozen ones included.
        multiply_adds: multiply-adds of one image of 800 x 1280, on the canvas that it
            is padded to.
        size: bytes of the file.
    """

    name: str
    config: str
    addresses: tuple[str, ...]
    sha256: str
    classes: str | tuple[str, ...] = 'COCO'
    ap: float | None = None
    ap_by: str | None = None
    source: str | None = None
    parameters: int | None = None
    multiply_adds: int | None = None
    size: int | None = None

    @property
    def path(self) -> pathlib.Path:
        """Where the file is in the cache once it has been downloaded."""
        return cached.place_of(self.addresses[0])

    def fetch(self) -> pathlib.Path:
        """The file of the weights, downloaded if it is not in the cache.

        Raises:
            ConnectionError: the download failed; the message names the file, every
                address and the path to put it to.
            ValueError: the file has another hash.
        """
        return cached.cached_file(self.addresses, self.path, self.sha256)


def models() -> dict[str, Model]:
    """All models by name, those of `$ATSS_JAX_MODELS` first.

    Raises:
        ValueError: such a file is malformed.
        OSError: it cannot be read.
    """
    files = os.environ.get(FILES_VARIABLE, '').split(os.pathsep)
    given = [pathlib.Path(file).expanduser() for file in files if file]
    found: dict[str, Model] = {}
    for file in given:
        if not file.is_file():
            raise FileNotFoundError(f'{file}: no such file; ${FILES_VARIABLE} names it')
        found |= _read(file, read_given_json(file))
    shipped = _read(_FILE, json.loads(_FILE.read_text(encoding='utf-8')))
    return found | {name: x for name, x in shipped.items() if name not in found}


def find(name: str) -> Model:
    """The model of a name, with or without `mmdet://` before it.

    Raises:
        ValueError: there is none; lists all names.
    """
    name, known = name.removeprefix(SCHEME), models()
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f"; did you mean '{close[0]}'? There are" if close else '; there are'
        raise ValueError(f'no model named {name!r}{hint} {", ".join(known)}')
    return known[name]


def _is_text(value):
    return isinstance(value, str) and value != ''


def _is_tuple(value, is_element):
    return isinstance(value, tuple) and value != () and all(map(is_element, value))


def _is_address(value):
    return _is_text(value) and value.startswith(('http://', 'https://'))


def _is_hash(value):
    return _is_text(value) and re.fullmatch('[0-9a-fA-F]{8,64}', value) is not None


def _is_number(value):
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value):
    return _is_number(value) and isinstance(value, int) and value >= 0


_COUNT = _is_count, 'a whole number'
_EXPECTED = {
    'config': (_is_text, 'the name of a shipped config or the path of a file'),
    'addresses': (
        lambda value: _is_tuple(value, _is_address),
        'a list of http:// or https:// addresses',
    ),
    'sha256': (_is_hash, 'the SHA-256 of the file, or its first 8 digits or more'),
    'classes': (
        lambda value: value == 'COCO' or _is_tuple(value, _is_text),
        "a list of names, or 'COCO'",
    ),
    'ap': (_is_number, 'a number'),
    'ap_by': (_is_text, 'a text'),
    'source': (_is_text, 'a text'),
    'parameters': _COUNT,
    'multiply_adds': _COUNT,
    'size': _COUNT,
}
"""For each field of an entry: what says whether a value is right, and what is."""

_OPTIONAL = ('ap', 'ap_by', 'source', 'parameters', 'multiply_adds', 'size')


def _read(file: pathlib.Path, content: Any) -> dict[str, Model]:
    if not isinstance(content, Mapping):
        raise ValueError(f'{file}: expected an object with a model for each name')
    return {name: _model(name, fields, file) for name, fields in content.items()}


def _model(name, fields, file):
    known = [field.name for field in dataclasses.fields(Model) if field.name != 'name']
    if not isinstance(fields, Mapping) or not fields.keys() <= set(known):
        raise ValueError(f'{file}: {name}: expected an object with the fields {known}')
    lists = {
        key: tuple(value) if isinstance(value, list) else value
        for key, value in fields.items()
    }
    try:
        model = Model(name, **lists)
    except TypeError as error:
        raise ValueError(
            f'{file}: {name}: config, addresses and sha256 are required'
        ) from error
    for field, (is_right, expected) in _EXPECTED.items():
        value = getattr(model, field)
        if not (is_right(value) or (value is None and field in _OPTIONAL)):
            raise ValueError(
                f'{file}: {name}: {field} = {value!r}: expected {expected}'
            )
    if model.config.endswith(('.py', '.json')):
        config = file.parent / pathlib.Path(model.config).expanduser()
        model = dataclasses.replace(model, config=os.fspath(config))
    return model
