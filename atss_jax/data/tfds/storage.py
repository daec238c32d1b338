"""Data sets in TensorFlow Datasets' folders: names, features, rows. No TensorFlow.

TensorFlow Datasets is imported where it is used only: it takes half a second, which
every program and worker process would pay.
"""

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

from etils import epath

_NAME = re.compile(r'([a-z][a-z0-9_]*)(/\w[\w.+-]*)?:(\d+\.\d+\.\d+)')


def parse_name(name: str) -> tuple[str, str, str]:
    """Data set, config ('' if there is none) and version of 'coco/2017:1.1.0'.

    The version must be given: without it TensorFlow Datasets runs the data set's code,
    which needs TensorFlow.

    Raises:
        ValueError: a name of another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f'name = {name!r}: expected dataset/config:version or dataset:version, '
            "such as 'coco/2017:1.1.0'"
        )
    dataset, config, version = match.groups()
    return dataset, (config or '/')[1:], version


def folder_of(data_dir: str, name: str) -> epath.Path:
    """Where a data set lies: `DATA_DIR/dataset/config/version`.

    Args:
        data_dir: local folder, or one in a bucket (`gs://...`).
        name: as for `parse_name`.
    """
    dataset, config, version = parse_name(name)
    return epath.Path(data_dir).expanduser() / dataset / config / version


def check_name(what: str, name: str) -> None:
    """Raises ValueError if a split could not be part of a file name."""
    if re.fullmatch(r'[a-z][a-z0-9_]*', name) is None:
        raise ValueError(
            f'{what} = {name!r}: expected lower case letters, digits and _'
        )


def is_local(path: epath.Path) -> bool:
    """Whether a path is of this machine's file system, not of a bucket."""
    return '://' not in str(path)


def open_builder(data_dir: str, name: str) -> Any:
    """The `tfds.core.DatasetBuilder` of a data set prepared as array_record.

    Raises:
        FileNotFoundError: nothing is prepared there.
        ValueError: it cannot be read without TensorFlow or at random.
    """
    import tensorflow_datasets as tfds

    path = folder_of(data_dir, name)
    try:
        found = (path / 'dataset_info.json').exists()
    except ImportError as error:
        raise ValueError(
            f'{path}: reading from a bucket needs one more library: pip install gcsfs '
            f'({error})'
        ) from error
    if not found:
        raise FileNotFoundError(
            f'{path}: no data set is prepared here (no dataset_info.json). Prepare one '
            f'with python -m atss_jax prepare-tfds --data_dir={data_dir} --name={name}'
        )
    builder = tfds.builder_from_directory(path)
    formats = {str(form.value) for form in builder.info.available_file_formats()}
    if 'array_record' not in formats:
        raise ValueError(
            f'{path}: prepared as {", ".join(sorted(formats))}, which cannot be read '
            "at random; prepare it with file_format='array_record', or with python -m "
            'atss_jax prepare-tfds'
        )
    return builder


def open_rows(builder: Any, split: str) -> Sequence[dict[str, Any]]:
    """Random access to the records of a split; images stay bytes.

    Raises:
        ValueError: there is no such split.
    """
    import tensorflow_datasets as tfds

    check_split(builder, split)
    return builder.as_data_source(
        split,
        decoders={'image': tfds.decode.SkipDecoding()},
        file_format='array_record',
    )


def check_split(builder: Any, split: str) -> None:
    """Raises ValueError if a data set has no such split."""
    splits = sorted(builder.info.splits)
    if split not in splits:
        raise ValueError(
            f'{builder.data_dir}: no split {split!r}, it has {", ".join(splits)}'
        )


@contextlib.contextmanager
def record_errors(what: str) -> Iterator[None]:
    """Says whose record it was when one cannot be read, parsed or written.

    Raises:
        OSError: what array_record found wrong with a file.
        ValueError: a record is not what the data set's features say; array_record
            gives an empty one where a file has fewer than it should.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(f'{what}: {str(error).splitlines()[0]}') from error
    except (ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f'{what}: not a record of this data set ({reason})') from error
