"""The workdir of a run: its config, its data stream, and who may train in it."""

import contextlib
import hashlib
import importlib.metadata
import json
import pathlib
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

import atss_jax
from atss_jax.config.fields import with_added_fields
from atss_jax.config.tree import flatten
from atss_jax.distributed import devices
from atss_jax.files import atomic, lock
from atss_jax.training.metrics_file import FILE as LOG
from atss_jax.training.trackers import FILE as TRACKING
from atss_jax.weights.mmdet_checkpoint import is_weights_file

CONFIG = 'config.json'
_EXPORTED = ('.onnx', '.stablehlo', '.html')
STREAM = 'stream.json'
_LOCK = 'lock'
# All that a run writes before its first step, the lock last.
_BEFORE_TRAINING = (
    CONFIG,
    STREAM,
    LOG,
    'tensorboard',
    TRACKING,
    'wandb',
    'checkpoints',
    'compile_cache',
    _LOCK,
)
_OF_ANY_CONFIG = {'compile_cache', _LOCK}

# These fields and sections change neither weights nor metrics of a step, so a run may
# be resumed with others.
_FREE_FIELDS = (
    'data.workers_per_gpu',
    'data.samples_per_gpu',
    'data.max_bad_pictures',
    'parallel',
    'early_stopping',
    'evaluation.num_eval_images',
    'log_config.hooks',
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
    if differences := _config_differences(folder, json.loads(config_json)):
        raise ValueError(
            f'{folder} belongs to a run with other config:\n{differences}\n'
            'To resume this run, set these fields as they were. To train with the new '
            f'values, {_new_run(folder)}'
        )
    check_stream(workdir, stream)


def _new_run(folder):
    return (
        f'use another --workdir; there, --config.load_from={folder} starts from the '
        'weights of this run.'
    )


def _config_differences(folder, now):
    if not (folder / CONFIG).exists():
        return ''
    before = with_added_fields(atomic.read_json(folder / CONFIG))
    before, now = flatten(before), flatten(with_added_fields(now))
    absent = object()
    return '\n'.join(
        f'  {path}: {_show(before, path)} there, {_show(now, path)} now'
        for path in sorted({*before, *now})
        if not _is_free(path) and before.get(path, absent) != now.get(path, absent)
    )


def _is_free(path):
    """Whether a field, or the section that it is in, may differ."""
    return any(path == free or path.startswith(f'{free}.') for free in _FREE_FIELDS)


def _show(values, path):
    return repr(values[path]) if path in values else 'absent'


def check_stream(
    workdir: str, stream: Mapping[str, Any], resumes_from: bool = False
) -> None:
    """Checks that a run has the same training batches and classes.

    A workdir of imported weights states only its classes, or nothing.

    Args:
        workdir: folder of the run.
        stream: as for `check`.
        resumes_from: whether the run continues in another folder (`resume_from`).

    Raises:
        ValueError: it has others.
    """
    folder = pathlib.Path(workdir)
    stated = atomic.read_json(folder / STREAM) if (folder / STREAM).exists() else {}
    if all(stated.get(name, value) == value for name, value in stream.items()):
        return
    differences = [
        *_batch_size_difference(stated, stream),
        *_data_differences(folder, stated, stream),
    ]
    if resumes_from:
        advice = (
            'resume_from continues this run as it was; to start from its weights '
            f'alone, set load_from={folder} instead.'
        )
    else:
        advice = (
            'To resume this run, train with what it began with. Otherwise '
            f'{_new_run(folder)}'
        )
    raise ValueError(
        '\n'.join(
            [
                f'{folder} belongs to a run with other training batches:',
                *differences,
                advice,
            ]
        )
    )


def _batch_size_difference(before, now):
    """A line about the number of images per step, if it differs."""
    name = 'global_batch_size'
    old, new = before.get(name), now.get(name)
    if old is None or new is None or old == new:
        return []
    devices_now = jax.device_count()
    per_device, rest = divmod(old, devices_now)
    if rest:
        fix = f'{old} images cannot be divided over {devices_now} device(s)'
    else:
        fix = f'data.samples_per_gpu={per_device} gives {old}'
    return [
        f'  images per step: {old} there, {new} now (data.samples_per_gpu on each of '
        f'{devices_now} device(s)); {fix}'
    ]


def _data_differences(folder, before, now):
    """Lines about the images, annotations and classes of `data.train` that differ."""
    lines = []
    differing = {name for name in now if before.get(name, now[name]) != now[name]}
    if differing & {'records', 'records_digest'}:
        line = f'  the annotations of data.train{_data_file(folder)} have changed'
        if 'records' in differing:
            line += f': {before["records"]} images there, {now["records"]} now'
        lines.append(f'{line} since that run began')
    if 'occurrences_digest' in differing and 'records' not in differing:
        lines.append(
            '  how often an epoch shows each image has changed (data.train.times, '
            'data.train.oversample_thr, or times of one of data.train.datasets)'
        )
    if 'user_functions' in differing:
        names = ', '.join(now['user_functions'])
        lines.append(
            f'  the files of {names} (data.train.pipeline.after_flip) have changed '
            'since that run began'
        )
    if 'classes' in differing:
        old, new = before['classes'], now['classes']
        lines.append(f'  classes of data.train: {old} there, {new} now')
    return lines


def _data_file(folder):
    """The annotation file of a run's training data in brackets, or ''."""
    config = atomic.read_json(folder / CONFIG) if (folder / CONFIG).exists() else {}
    train = config.get('data', {}).get('train', {})
    name = train.get('ann_file') or train.get('path') or train.get('data_dir')
    name = ', '.join(name) if isinstance(name, list) else name
    return f' ({name})' if name else ''


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
    if is_weights_file(workdir) and not pathlib.Path(workdir).is_dir():
        raise ValueError(
            f'{workdir} is a file of weights, not the workdir of a run; make one of '
            f'it: atss convert {shlex.quote(str(workdir))} WORKDIR --config CONFIG, or '
            'atss import-mmdet with a config of mmdetection'
        )
    if not file.is_file():
        hint = ''
        if file.parent.is_file() and file.parent.suffix in _EXPORTED:
            hint = (
                '. It was exported, by atss export, from a run or from weights: give '
                'those'
            )
        if str(workdir).endswith('.py'):
            hint = (
                '. It is a config: atss train makes a workdir with it, and atss '
                "import-mmdet with mmdetection's config and checkpoint"
            )
        raise ValueError(
            f'{workdir} is not the workdir of a run: no {CONFIG} in it{hint}'
        )
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
def locked(workdir: str) -> Iterator[Callable[[], None]]:
    """Keeps other runs from training in the workdir within the `with` block.

    A collective. The lock is freed when the run ends, however it ends. If the run is
    refused (ValueError or OSError), a workdir that was new is removed again. If it is
    interrupted before training begins, only its compiled programs stay, which may have
    taken minutes: it does not belong to the config yet.

    Yields:
        A function to call when training begins: from then on the workdir stays.

    Raises:
        ValueError: another run is training there now, or it is not a folder.
    """
    if pathlib.Path(workdir).is_file():
        raise ValueError(
            f'{workdir} is a file; --workdir is the folder of a run. To start from the '
            f'weights in a file, use --config.load_from={workdir}'
        )
    with contextlib.ExitStack() as stack:
        is_taken, new = False, _New(pathlib.Path(workdir))
        if devices.is_first():
            try:
                stack.enter_context(lock.locked(new.folder / _LOCK, False))
            except BlockingIOError:
                is_taken = True
        if devices.from_first(is_taken):
            raise ValueError(
                f'another run is training in {workdir} now: wait for it, stop it, or '
                'use another --workdir'
            )
        try:
            yield new.keep
        except (ValueError, OSError):
            if devices.is_first():
                new.remove(_BEFORE_TRAINING)
            raise
        finally:
            if devices.is_first():
                new.remove(set(_BEFORE_TRAINING) - _OF_ANY_CONFIG)


class _New:
    """Removes what a run writes to a new workdir before it trains.

    Nothing that was there before is removed, and nothing that is not of the run.
    """

    def __init__(self, folder):
        self.folder = folder
        self._made = [path for path in (folder, *folder.parents) if not path.exists()]
        self._is_new = bool(self._made) or not any(folder.iterdir())

    def keep(self):
        self._is_new = False

    def remove(self, names):
        """Called by the run that holds the lock; does nothing after `keep`."""
        if not self._is_new:
            return
        for name in names:
            path = self.folder / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # something is still there
            for path in self._made:
                path.rmdir()


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
