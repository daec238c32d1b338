"""The workdir of a run: its config, its data stream, and who may train in it."""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import secrets
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

import atss_jax
from atss_jax.config.tree import flatten
from atss_jax.distributed import devices
from atss_jax.files import atomic, lock

CONFIG = 'config.json'
STREAM = 'stream.json'
_LOCK = 'lock'

# These fields change neither weights nor metrics, so a run may be resumed with others.
_FREE_FIELDS = (
    'data.workers_per_gpu',
    'data.samples_per_gpu',
    'data.max_bad_pictures',
    'parallel',
)


# Which run it belongs to -------------------------------------------------------------


def check(workdir: str, config_json: str, stream: Mapping[str, Any]) -> None:
    """Checks that the workdir belongs to the same run, or to none yet.

    Args:
        workdir: the folder.
        config_json: the resolved config, as `config.to_json` gives it.
        stream: what else decides training: global batch size, records, class names.

    Raises:
        ValueError: the folder belongs to a run with another config or stream.
    """
    folder = pathlib.Path(workdir)
    checkpoints = list(folder.glob('checkpoints/*'))
    if checkpoints and not (folder / CONFIG).exists():
        raise ValueError(
            f'{workdir} has checkpoints but no {CONFIG} that says which config they '
            'belong to; use another --workdir'
        )
    _compare(folder / CONFIG, json.loads(config_json), 'config')
    check_stream(workdir, stream)


def check_stream(workdir: str, stream: Mapping[str, Any]) -> None:
    """Raises ValueError if the workdir's run has other training batches or classes.

    A workdir of imported weights states only its classes, or nothing.
    """
    file = pathlib.Path(workdir) / STREAM
    stated = atomic.read_json(file) if file.exists() else {}
    compared = {name: value for name, value in stream.items() if name in stated}
    _compare(file, compared, 'training batches')


def _compare(file, now, kind):
    """Raises ValueError if a JSON file exists and has other values than `now`."""
    if not file.exists():
        return
    before, now = flatten(atomic.read_json(file)), flatten(now)
    absent = object()
    differences = [
        f'  {path}: {_show(before, path)} there, {_show(now, path)} now'
        for path in sorted({*before, *now} - {*_FREE_FIELDS})
        if before.get(path, absent) != now.get(path, absent)
    ]
    if differences:
        raise ValueError(
            f'{file.parent} belongs to a run with other {kind}:\n'
            + '\n'.join(differences)
            + '\nUse another --workdir, or set these fields as they were.'
        )


def _show(values, path):
    return repr(values[path]) if path in values else 'absent'


def claim(workdir: str, config_json: str, stream: Mapping[str, Any]) -> None:
    """Makes the workdir that of a run; arguments and errors are those of `check`."""
    check(workdir, config_json, stream)
    if devices.is_first():
        folder = pathlib.Path(workdir)
        atomic.write_text(folder / CONFIG, config_json + '\n')
        atomic.write_json(folder / STREAM, stream, indent=2)


# What a run left in it ---------------------------------------------------------------


def config_path(workdir: str) -> str:
    """Path of the config of a workdir.

    Raises:
        ValueError: no run was started in this folder.
    """
    if not str(workdir):
        raise ValueError('expected the workdir of a run, got an empty name')
    file = pathlib.Path(workdir) / CONFIG
    if not file.is_file():
        raise ValueError(f'{workdir} is not the workdir of a run: no {CONFIG} in it')
    return str(file)


def trained_classes(workdir: str) -> tuple[str, ...] | None:
    """Class names that the run was trained for; None if the workdir does not say."""
    file = pathlib.Path(workdir) / STREAM
    classes = atomic.read_json(file).get('classes') if file.exists() else None
    return None if classes is None else tuple(classes)


def class_count(workdir: str) -> int:
    """Number of classes of the run's model, from its config."""
    config = atomic.read_json(config_path(workdir))
    return config['model']['bbox_head']['num_classes']


# What all processes must agree on ----------------------------------------------------


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Keeps other runs from training in the workdir within the `with` block.

    A collective. The lock is freed when the run ends, however it ends.

    Raises:
        ValueError: another run is training there now.
    """
    with contextlib.ExitStack() as stack:
        is_taken = False
        if devices.is_first():
            try:
                stack.enter_context(lock.locked(pathlib.Path(workdir) / _LOCK, False))
            except BlockingIOError:
                is_taken = True
        if devices.from_first(is_taken):
            raise ValueError(
                f'another run is training in {workdir} now: wait for it, stop it, or '
                'use another --workdir'
            )
        yield


def check_shared(workdir: str) -> None:
    """Checks that all processes see the same folder; a collective.

    Raises:
        ValueError: a process does not see what process 0 wrote there.
    """
    if jax.process_count() == 1:
        return
    file = pathlib.Path(workdir) / 'shared.tmp'
    token = devices.from_first(secrets.token_hex(8))
    if devices.is_first():
        atomic.write_text(file, token)
    devices.from_first('written')
    until = time.monotonic() + 10  # network file systems may be late
    while not (is_seen := file.exists() and file.read_text() == token):
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    columns = devices.gather({'is_seen': np.array([is_seen])})
    unseen = [index for index, x in enumerate(columns) if not x['is_seen'].all()]
    if devices.is_first():
        file.unlink()
    if unseen:
        raise ValueError(
            f'process {unseen} does not see what process 0 writes to {workdir}: a '
            'workdir must be on a file system that all hosts share'
        )


def code_digest() -> str:
    """Hash of the source code of this package."""
    content = hashlib.sha256()
    root = pathlib.Path(atss_jax.__file__).parent
    for file in sorted(root.rglob('*.py')):
        content.update(str(file.relative_to(root)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()


def package_versions() -> str:
    """Versions of the packages that results depend on."""
    names = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'opencv-python-headless')
    return ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
