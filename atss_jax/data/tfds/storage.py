"""Folders of TensorFlow Datasets: names, builders, records. TensorFlow is not used.

TensorFlow Datasets and its companions are imported where they are used: they are an
optional part of an installation, and the import takes half a second, which every
program and worker process would spend.
"""

import contextlib
import re
import shlex
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etils import epath

_NAME = re.compile(r'([a-z][a-z0-9_]*)(/\w[\w.+-]*)?:(\d+\.\d+\.\d+)')


def library() -> ModuleType:
    """The module `tensorflow_datasets`, imported now.

    Raises:
        ValueError: it, or a library that it is used with, is not installed.
    """
    try:
        import array_record  # noqa: F401
        import tensorflow_datasets
        from etils import epath  # noqa: F401
    except ImportError as error:
        raise ValueError(
            'data sets of TensorFlow Datasets need more libraries: '
            f"pip install 'atss-jax[tfds]' ({error})"
        ) from error
    return tensorflow_datasets


def parse_name(name: str) -> tuple[str, str, str]:
    """Data set, config ('' if there is none) and version of 'coco/2017:1.1.0'.

    The version is required: without it TensorFlow Datasets would run the data set's
    code, which needs TensorFlow.

    Raises:
        ValueError: the name has another form.
    """
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f'name = {name!r}: expected dataset/config:version or dataset:version, '
            "such as 'coco/2017:1.1.0'"
        )
    dataset, config, version = match.groups()
    return dataset, (config or '/')[1:], version


def folder_of(data_dir: str, name: str) -> 'epath.Path':
    """The folder of a data set: `DATA_DIR/dataset/config/version`.

    Args:
        data_dir: local folder, or one in a bucket (`gs://...`).
        name: as for `parse_name`.

    Raises:
        ValueError: the name has another form; TensorFlow Datasets is not installed.
    """
    library()
    from etils import epath

    dataset, config, version = parse_name(name)
    return epath.Path(data_dir).expanduser() / dataset / config / version


def check_name(what: str, name: str) -> None:
    """Raises ValueError if the name of a split cannot be part of a file name."""
    if re.fullmatch(r'[a-z][a-z0-9_]*', name) is None:
        raise ValueError(
            f'{what} = {name!r}: expected lower case letters, digits and _'
        )


def is_local(path: 'epath.Path') -> bool:
    """Whether a path is on this machine's file system, not in a bucket."""
    return '://' not in str(path)


def open_builder(data_dir: str, name: str) -> Any:
    """The `tfds.core.DatasetBuilder` of a data set prepared as array_record.

    Raises:
        FileNotFoundError: there is no prepared data set.
        ValueError: it cannot be read without TensorFlow, or not in random order.
    """
    path = folder_of(data_dir, name)
    try:
        exists = (path / 'dataset_info.json').exists()
    except ImportError as error:
        raise ValueError(
            f'{path}: reading from a bucket needs one more library: pip install gcsfs '
            f'({error})'
        ) from error
    if not exists:
        flags = shlex.join([f'--data_dir={data_dir}', f'--name={name}'])
        raise FileNotFoundError(
            f'{path}: no data set is prepared here (no dataset_info.json). Prepare one '
            f'with: atss prepare-tfds {flags}'
        )
    builder = library().builder_from_directory(path)
    formats = {str(form.value) for form in builder.info.available_file_formats()}
    if 'array_record' not in formats:
        raise ValueError(
            f'{path}: prepared as {", ".join(sorted(formats))}, which cannot be read '
            "in random order; prepare it with file_format='array_record', or with "
            'atss prepare-tfds'
        )
    return builder


def open_rows(builder: Any, split: str) -> Sequence[dict[str, Any]]:
    """Random access to the records of a split; images are not decoded.

    Raises:
        ValueError: there is no such split.
    """
    check_split(builder, split)
    return builder.as_data_source(
        split,
        decoders={'image': library().decode.SkipDecoding()},
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
    """Names the record, or the file, in errors of reading, parsing or writing it.

    Raises:
        OSError: array_record found the file damaged, or could not write it.
        ValueError: a record does not have the data set's features; array_record gives
            an empty one if a file has fewer records than it should.
    """
    try:
        yield
    except RuntimeError as error:
        raise OSError(f'{what}: {str(error).splitlines()[0]}') from error
    except (ValueError, KeyError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f'{what}: not a record of this data set ({reason})') from error
