"""Parquet files, and the Arrow files that the library `datasets` writes.

Rows and images are read with pyarrow alone, which is imported where it is used: it is
an optional part of an installation.
"""

import contextlib
import errno
import functools
import hashlib
import json
import os
import pathlib
import re
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import Any

import tqdm

from atss_jax.data import image_file
from atss_jax.data.forms.objects_column import (
    CATEGORY_NAMES,
    ImageRows,
    is_inside,
    shown_names,
)
from atss_jax.files.atomic import replacing
from atss_jax.files.download import cache_folder
from atss_jax.files.lock import locked

PARQUET, ARROW = '.parquet', '.arrow'
_COLUMNS = ('file_name', 'image_id', 'width', 'height', 'objects')
_IN_FILE = re.compile(rf'(.+(?:{PARQUET}|{ARROW}))/(\d{{6,}})(?:/[^/]*)?', re.DOTALL)
_ROWS_AT_ONCE = 100  # a few images; pyarrow's own number takes gigabytes


def library() -> ModuleType:
    """The module `pyarrow`, imported now.

    Raises:
        ValueError: it is not installed.
    """
    try:
        import pyarrow.compute
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            'Parquet and Arrow files need more libraries: '
            f"pip install 'atss-jax[hf]' ({error})"
        ) from error
    return pyarrow


def read(folder: str, names: Sequence[str]) -> ImageRows:
    """The rows of one or several files, without the images in them.

    An image in a file has the `file_name` FILE/ROW/NAME, and NAME only if it is known;
    `image_content` reads it. Rows are counted from 0, in six digits.

    Args:
        folder: of the data set.
        names: of the files, relative to `folder`.

    Raises:
        ValueError: a file is damaged, has no column with the images, or the names of
            its classes are not those of the first; pyarrow is not installed.
        OSError: a file cannot be read.
    """
    rows, columns, class_names = [], {}, []
    for name in names:
        schema, table = _read_table(os.path.join(folder, name))
        columns |= dict.fromkeys(schema.names)
        class_names.append(_class_names(schema))
        rows += _rows(name, schema, table)
    for name, other in zip(names, class_names, strict=True):
        if other != class_names[0]:
            raise ValueError(
                f'{folder}: {names[0]} and {name} are of one split, but the names of '
                f'their classes differ: {class_names[0]} and {other}'
            )
    path = os.path.join(folder, names[0]) if len(names) == 1 else folder
    return ImageRows(path, rows, tuple(columns), {}, class_names[0])


def _read_table(path: str) -> tuple[Any, Any]:
    """The schema of a file, and a table of its columns except for the images."""
    arrow = library()
    is_arrow = path.endswith(ARROW)
    with _naming(path):
        file = _mapped(path) if is_arrow else arrow.parquet.ParquetFile(path)
        schema = file.schema if is_arrow else file.schema_arrow
        columns = [name for name in _COLUMNS if name in schema.names]
        if 'image' not in schema.names and 'file_name' not in columns:
            raise ValueError(
                f'{path}: there is no column image, nor a column file_name; its '
                f'columns are {shown_names(schema.names)}'
            )
        if 'image' in schema.names:
            columns += _name_column(schema.field('image').type)
        if is_arrow:
            return schema, file.select([name.partition('.')[0] for name in columns])
        return schema, file.read(columns=columns)


def _name_column(kind):
    """The column with the names of images of this type, in a list, if there is one."""
    types = library().types
    if types.is_struct(kind) and kind.get_field_index('path') >= 0:
        return ['image.path']
    return ['image'] if types.is_string(kind) or types.is_large_string(kind) else []


def _rows(name, schema, table):
    """The rows of a file, from its columns except for the images."""
    columns = [column for column in _COLUMNS if column in table.column_names]
    values = zip(*(table[column].to_pylist() for column in columns), strict=True)
    rows = [dict(zip(columns, row, strict=True)) for row in values]
    rows = rows or [{} for _ in range(len(table))]
    image_names = _image_names(table)
    for number, row in enumerate(rows):
        row['place'] = f'{name} row {number}'
        if 'image' in schema.names:
            image_name = str(image_names[number] or '').replace('\\', '/')
            names = (name, f'{number:06d}', image_name.rpartition('/')[2])
            row['file_name'] = '/'.join(filter(None, names))
        elif type(row.get('file_name')) is str:
            row['file_name'] = os.path.join(os.path.dirname(name), row['file_name'])
    return rows


def _image_names(table):
    """The path of each image where one is stored with it; None elsewhere."""
    if 'image' not in table.column_names:
        return [None] * len(table)
    column = table['image']
    if library().types.is_struct(column.type):
        column = library().compute.struct_field(column, 'path')
    return column.to_pylist()


def _class_names(schema):
    """The names of the classes, in what `datasets` writes about columns; None: none."""
    try:
        stored = json.loads((schema.metadata or {}).get(b'huggingface', b'{}'))
        objects = stored['info']['features']['objects']
    except (ValueError, KeyError, TypeError):
        return None
    names = _label_names(_under(objects))
    return None if names is None else tuple(map(str, names))


def _under(feature):
    """The feature of the categories, however `objects` is nested; None: no such."""
    children = feature if isinstance(feature, list) else [feature]
    for child in children:
        if isinstance(child, dict):
            for name in CATEGORY_NAMES:
                if name in child:
                    return child[name]
            if (inside := _under(list(child.values()))) is not None:
                return inside
    return None


def _label_names(feature):
    """The names of a ClassLabel, or of one in lists."""
    if isinstance(feature, list):
        feature = feature[0] if feature else None
    if not isinstance(feature, dict):
        return None
    if feature.get('_type') == 'ClassLabel':
        return feature.get('names')
    return _label_names(feature.get('feature'))


# Images -------------------------------------------------------------------------------


def unpack(folder: str, names: Sequence[str]) -> None:
    """Copies the images of Parquet files to the cache, unless they are there.

    A single image cannot be read from Parquet without the hundred or thousand of its
    group. Copied to an Arrow file, as `datasets` does as well, each is read alone.

    Raises:
        ValueError: a file is damaged.
        OSError: a file cannot be read, or the cache cannot be written.
    """
    files = [os.path.join(folder, name) for name in names if name.endswith(PARQUET)]
    files = [file for file in files if 'image' in _schema_names(file)]
    missing = [file for file in files if not _copy_of(file).exists()]
    # disable=None: a bar on a terminal, nothing in a log file.
    silent = None if missing else True
    for file in tqdm.tqdm(missing, desc='images of Parquet files', disable=silent):
        copy = _copy_of(file)
        try:
            with locked(copy.with_suffix('.lock')):
                if not copy.exists():  # another process may have made it meanwhile
                    _copy_images(file, copy)
        except OSError as error:
            raise OSError(
                f'{file}: its images cannot be copied to the cache ({error}). Set '
                'ATSS_JAX_CACHE to a folder that can be written to and has '
                f'{os.path.getsize(file):,} bytes free'
            ) from error


def _schema_names(file):
    with _naming(file):
        return library().parquet.read_schema(file).names


def _copy_images(file, copy):
    arrow = library()
    for older in copy.parent.glob(f'{copy.name.partition("-")[0]}-*{ARROW}'):
        older.unlink()
    with _naming(file), arrow.parquet.ParquetFile(file) as source:
        schema = arrow.schema([source.schema_arrow.field('image')])
        with (
            replacing(copy) as temporary,
            arrow.OSFile(str(temporary), 'wb') as sink,
            arrow.ipc.new_stream(sink, schema) as writer,
        ):
            for batch in source.iter_batches(_ROWS_AT_ONCE, columns=['image']):
                writer.write_batch(batch)


def _copy_of(file: str) -> pathlib.Path:
    """Where the cache has the images of a Parquet file, as it is now."""
    path, status = os.path.abspath(file), os.stat(file)
    digest = hashlib.sha256(path.encode()).hexdigest()[:16]
    stamp = f'{status.st_size}-{status.st_mtime_ns}'
    return cache_folder() / 'parquet_images' / f'{digest}-{stamp}{ARROW}'


def file_of(path: str) -> str:
    """The file in which an image lies, by the path of the image."""
    match = _IN_FILE.fullmatch(path)
    return path if match is None else match[1]


def image_content(path: str) -> bytes:
    """The bytes of an image, encoded as it is stored.

    Args:
        path: of an image file, or `folder` joined with a `file_name` of `read`.

    Raises:
        OSError: it cannot be read, or there is no image in this row.
    """
    match = _IN_FILE.fullmatch(path)
    if match is None:
        return image_file.file_content(path)
    file, row = match[1], int(match[2])
    stored = file if file.endswith(ARROW) else str(_copy_of(file))
    column = _image_column(stored, os.stat(stored).st_mtime_ns)
    value = column[row].as_py() if row < len(column) else None
    if isinstance(value, dict):
        value = value.get('bytes') or value.get('path')
    if not value:
        raise FileNotFoundError(errno.ENOENT, 'there is no image in this row', path)
    if isinstance(value, str):
        if not is_inside(value) and not _is_of_the_library(file, value):
            reason = f'this row names {value!r}, outside of the folder of the data set'
            raise PermissionError(errno.EACCES, reason, path)
        return image_file.file_content(os.path.join(os.path.dirname(file), value))
    return value


def _is_of_the_library(file: str, image: str) -> bool:
    """Whether `datasets` made a file in its cache, of an image that it downloaded.

    Such files name images by absolute paths.
    """
    home = os.environ.get('HF_HOME') or os.path.join(
        os.environ.get('XDG_CACHE_HOME') or '~/.cache', 'huggingface'
    )
    made = os.environ.get('HF_DATASETS_CACHE') or os.path.join(home, 'datasets')
    downloaded = os.environ.get('HF_HUB_CACHE') or os.path.join(home, 'hub')
    return _lies_in(file, made) and (
        _lies_in(image, downloaded) or _lies_in(image, made)
    )


def _lies_in(path, folder):
    folder = os.path.abspath(os.path.expanduser(folder))
    return os.path.abspath(path).startswith(os.path.join(folder, ''))


@functools.cache
def _image_column(file: str, _changed: int) -> Any:
    """The images of an Arrow file; each is read from disk when it is asked for."""
    with _naming(file):
        return _mapped(file)['image']


def _mapped(file):
    arrow = library()
    return arrow.ipc.open_stream(arrow.memory_map(file)).read_all()


@contextlib.contextmanager
def _naming(file: str) -> Iterator[None]:
    """Names the file in errors about what is in it."""
    try:
        yield
    except (library().ArrowInvalid, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the operating system's, about a file that cannot be read
        reason = str(error).splitlines()[0]
        raise ValueError(f'{file}: damaged, or not of this kind ({reason})') from error
