"""What lies in a workdir: its config, and what its data stream depends on."""

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
from atss_jax.config.sections import flatten
from atss_jax.distributed import devices
from atss_jax.files import lock
from atss_jax.files.atomic import read_json

CONFIG = 'config.json'
STREAM = 'stream.json'
_LOCK = 'lock'

# These change neither weights nor metrics: a run may go on with others.
_FREE = (
    'data.workers_per_gpu',
    'data.samples_per_gpu',
    'data.max_bad_pictures',
    'parallel',
)


def check(workdir: str, config_json: str, stream: Mapping[str, Any]) -> None:
    """Checks that the workdir is of the same run, or of none yet.

    Args:
        workdir: folder.
        config_json: the resolved config, as `config.to_json` gives it.
        stream: what else decides training: global batch size, records, class names.

    Raises:
        ValueError: the folder is of another config or stream.
    """
    folder = pathlib.Path(workdir)
    checkpoints = list(folder.glob('checkpoints/*'))
    if checkpoints and not (folder / CONFIG).exists():
        raise ValueError(
            f'{workdir} has checkpoints but no {CONFIG} to say what they are of; use '
            'another --workdir'
        )
    _compare(folder / CONFIG, json.loads(config_json), 'config')
    check_stream(workdir, stream)


def check_stream(workdir: str, stream: Mapping[str, Any]) -> None:
    """Raises ValueError if the workdir's run has other batches or classes.

    A workdir of imported weights says its classes alone, or nothing.
    """
    file = pathlib.Path(workdir) / STREAM
    stated = read_json(file) if file.exists() else {}
    now = {name: value for name, value in stream.items() if name in stated}
    _compare(file, now, 'training batches')


def trained_classes(workdir: str) -> tuple[str, ...] | None:
    """Class names that the run's weights are for; None if the workdir does not say."""
    file = pathlib.Path(workdir) / STREAM
    classes = read_json(file).get('classes') if file.exists() else None
    return None if classes is None else tuple(classes)


def class_count(workdir: str) -> int:
    """Number of classes of the run's model, by its config."""
    config = read_json(pathlib.Path(config_path(workdir)))
    return config['model']['bbox_head']['num_classes']


def claim(workdir: str, config_json: str, stream: Mapping[str, Any]) -> None:
    """Makes the workdir that of a run; arguments and errors as for `check`."""
    check(workdir, config_json, stream)
    if not devices.is_first():
        return
    folder = pathlib.Path(workdir)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in ((CONFIG, config_json), (STREAM, json.dumps(stream, indent=2))):
        temporary = folder / f'{name}.tmp'
        temporary.write_text(text + '\n')
        temporary.replace(folder / name)


def _compare(file, now, what):
    if not file.exists():
        return
    before = flatten(read_json(file))
    now = flatten(now)
    differences = [
        f'  {path}: {_show(before, path)} there, {_show(now, path)} now'
        for path in sorted({*before, *now})
        if path not in _FREE and before.get(path, file) != now.get(path, file)
    ]
    if differences:
        raise ValueError(
            f'{file.parent} belongs to a run with other {what}:\n'
            + '\n'.join(differences)
            + '\nUse another --workdir, or set these fields as they were.'
        )


def _show(leaves, path):
    return repr(leaves[path]) if path in leaves else 'absent'


def config_path(workdir: str) -> str:
    """The config of a workdir.

    Raises:
        ValueError: no run was started in this folder.
    """
    if not str(workdir):
        raise ValueError('expected the workdir of a run, got an empty name')
    file = pathlib.Path(workdir) / CONFIG
    if not file.is_file():
        raise ValueError(f'{workdir} is not the workdir of a run: no {CONFIG} in it')
    return str(file)


def check_shared(workdir: str) -> None:
    """Checks that all processes see one folder; a collective.

    Raises:
        ValueError: a process that does not see what process 0 wrote there.
    """
    if jax.process_count() == 1:
        return
    file = pathlib.Path(workdir) / 'shared.tmp'
    token = devices.from_first(secrets.token_hex(8))
    if devices.is_first():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(token)
    devices.from_first('written')
    until = time.monotonic() + 10  # network file systems may lag behind
    while not (seen := file.exists() and file.read_text() == token):
        if time.monotonic() > until:
            break
        time.sleep(0.5)
    unseen = [
        not part['seen'].all() for part in devices.gather({'seen': np.array([seen])})
    ]
    if devices.is_first():
        file.unlink()
    if any(unseen):
        raise ValueError(
            f'process {np.flatnonzero(unseen).tolist()} does not see what process 0 '
            f'writes to {workdir}: a workdir must lie on a file system that all hosts '
            'share'
        )


@contextlib.contextmanager
def locked(workdir: str) -> Iterator[None]:
    """Within, no other run may train in the workdir; a collective.

    A run that ends leaves nothing, however it ends.

    Raises:
        ValueError: another run has it now.
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
                f'another run is training in {workdir} now: wait for it, end it, or '
                'use another --workdir'
            )
        yield


def code_digest() -> str:
    """Hash of the source of this package."""
    content = hashlib.sha256()
    root = pathlib.Path(atss_jax.__file__).parent
    for file in sorted(root.rglob('*.py')):
        content.update(str(file.relative_to(root)).encode())
        content.update(file.read_bytes())
    return content.hexdigest()


def package_versions() -> str:
    """Versions of what computes: they too must be the same everywhere."""
    names = ('jax', 'jaxlib', 'flax', 'optax', 'numpy', 'opencv-python-headless')
    return ', '.join(f'{name} {importlib.metadata.version(name)}' for name in names)
