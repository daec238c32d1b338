"""Data sets as Hugging Face has them: a column `objects` next to each image."""

import dataclasses
import os
import pathlib
import re
from collections.abc import Container, Mapping, Sequence

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import SIDE, Table, show
from atss_jax.data.forms import arrow_files, class_names, hub_address, metadata_lines
from atss_jax.data.forms import objects_column as column
from atss_jax.data.forms.form import ALL, in_order, split_name
from atss_jax.data.forms.sizes import UNREADABLE, image_sizes
from atss_jax.files.atomic import read_given_json

_CLASSES = 'classes.txt'
_METADATA = ('metadata.jsonl', 'metadata.parquet')
_LINES = '.jsonl'
_SHARD = re.compile(r'(.+?)-\d{5}-of-\d{5}.*')


@dataclasses.dataclass(frozen=True)
class HuggingFaceForm:
    """Files `metadata.jsonl`, Parquet or Arrow; fields as in `Form`.

    Attributes:
        path: the folder, file or address that the user gave.
        folder: folder that the names of the files below are relative to.
        splits: for messages, the files of each split.
        files: of each split, either one `.jsonl` or Parquet and Arrow files.
        box_format: what the numbers of a box are, as for `objects_column.annotations`.
        parsed: rows by split, to which reading adds, so that reading another split need
            not parse them again; None: nothing is kept.
    """

    path: str
    folder: str
    splits: Mapping[str, str]
    files: Mapping[str, Sequence[str]]
    box_format: str = 'xywh'
    name: str = 'Hugging Face'
    parsed: dict[str, column.ImageRows] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def read(
        self,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: Container[str] | None = None,
    ) -> Annotations:
        """Reads and checks the rows of a split, as `Form.read` says.

        Names of classes are unique by themselves, whatever `classes` has.
        """
        rows = self._rows(split)
        names = self._category_names(rows)
        images = column.image_table(rows, on_error, training)
        arrow_files.unpack(self.folder, self.files[split])
        self._fill_sizes(rows.path, images)
        return column.annotations(rows.path, images, names, self.box_format, on_error)

    def image_content(self, path: str) -> bytes:
        """The bytes of an image file, or of an image in a Parquet or Arrow file."""
        return arrow_files.image_content(path)

    def _rows(self, split):
        """The rows of a split, which the caller may change."""
        if self.parsed is None:
            return self._parse(split)
        if split not in self.parsed:
            self.parsed[split] = self._parse(split)
        rows = self.parsed[split]
        return dataclasses.replace(rows, rows=[dict(row) for row in rows.rows])

    def _parse(self, split):
        files = self.files[split]
        if files[0].endswith(_LINES):
            return metadata_lines.read(self.folder, files[0])
        rows = arrow_files.read(self.folder, files)
        # Nobody knows the files in the cache of `datasets`.
        return dataclasses.replace(rows, path=self.path) if self._is_on_hub else rows

    @property
    def _is_on_hub(self):
        is_address = self.path.startswith(hub_address.SCHEME)
        return is_address and not hub_address.parse(self.path).is_local

    def _category_names(self, rows):
        """Names of the categories in the order of the labels.

        They are those that the columns' description has, or `classes.txt`, or all texts
        that occur in any of the splits: the splits must agree on the labels.

        Raises:
            ValueError: the categories are integers, and nothing says their names.
        """
        if rows.class_names is not None:
            return rows.class_names
        listed = pathlib.Path(self.folder, _CLASSES)
        if listed.is_file():
            names = class_names.read_file(str(listed))
            class_names.check_unique(str(listed), names, None)
            return names
        values = set().union(
            *(column.category_values(self._rows(split)) for split in self.splits)
        )
        texts = {value for value in values if type(value) is str}
        if values and not texts:
            first = (
                'Download the data set to a folder (hf download --repo-type=dataset '
                f'OWNER/NAME --local-dir=FOLDER), and write them to FOLDER/{_CLASSES}'
                if self._is_on_hub
                else f'Write them to {listed}'
            )
            raise ValueError(
                f'{rows.path}: the categories are integers ({min(values)} to '
                f'{max(values)}), and nothing says their names. {first}, one a line, '
                'the one for 0 first; or make the column a ClassLabel'
            )
        return tuple(sorted(texts))

    def _fill_sizes(self, path: str, images: Table) -> None:
        """Reads sizes that no column has from the images."""
        unknown = [
            row
            for row in images.rows
            if row.get('height') is None or row.get('width') is None
        ]
        paths = [image_file.locate(self.folder, row['file_name']) for row in unknown]
        sizes = image_sizes(paths, self.path, self.image_content, arrow_files.file_of)
        unreadable = {}
        for row, file, size in zip(unknown, paths, sizes.tolist(), strict=True):
            row['height'], row['width'] = size
            if tuple(size) == UNREADABLE:
                unreadable[id(row)] = file
        problems = {
            index: f'its size is not given, and {self._problem(unreadable[id(row)])}'
            for index, row in enumerate(images.rows)
            if id(row) in unreadable
        }
        images.refuse(problems, 'no size is given, and the image cannot be read')
        for side in ('height', 'width'):
            images.require(side, SIDE)

    def _problem(self, path):
        """Why the size of an image cannot be read."""
        try:
            image_file.size_of(path, self.image_content)
        except OSError as error:
            return f'{path}: {error.strerror or error}'
        except image_file.BadImage as error:
            return str(error)
        return f'{path} could not be read before'


# Where they lie -----------------------------------------------------------------------


def find(path: str) -> HuggingFaceForm | None:
    """The data set of this form at a path or `hf://` address; None if there is none.

    It may be a `metadata.jsonl` or Parquet file; a folder with one of them, or one for
    each split, in itself, in `data/` or in folders of splits; or a folder that the
    library `datasets` saved.

    Raises:
        ValueError: the address has another form, or what is there cannot be loaded.
        OSError: the data set cannot be downloaded, or a description not be read.
    """
    if path.startswith(hub_address.SCHEME):
        address = hub_address.parse(path)
        if not address.is_local:
            return _on_hub(address)
        form = find(os.path.expanduser(address.name))
        if form is None:
            raise ValueError(
                f'path = {path!r}: there is no {" or ".join(_METADATA)}, no Parquet '
                'file and nothing that datasets saved'
            )
        return dataclasses.replace(form, path=path, box_format=address.box_format)
    given = pathlib.Path(path)
    if given.is_file():
        known = (_LINES, arrow_files.PARQUET, arrow_files.ARROW)
        if given.suffix not in known:
            return None
        return _form(path, str(given.parent), {ALL: [given.name]})
    if not given.is_dir():
        return None
    files = _saved(given) or _described(given) or _shards(given)
    return _form(path, path, files) if files else None


def _form(path, folder, files, **more):
    files = {split: files[split] for split in in_order(files)}
    splits = {
        split: names[0] + (f' and {len(names) - 1} more' if names[1:] else '')
        for split, names in files.items()
    }
    return HuggingFaceForm(path, folder, splits, files, **more)


def _on_hub(address):
    files = hub_address.arrow_files(address)
    folder = os.path.commonpath(
        [os.path.dirname(file) for names in files.values() for file in names]
    )
    files = {
        split: [os.path.relpath(file, folder) for file in names]
        for split, names in _by_our_names(files).items()
    }
    return _form(address.text, folder, files, box_format=address.box_format)


def _by_our_names(splits: Mapping[str, list[str]]) -> dict[str, list[str]]:
    """The splits as train, val and test; others, and second ones, keep their names."""
    renamed = {}
    for name in sorted(splits, key=len):
        ours = split_name(name)
        renamed[name if ours is None or ours in renamed else ours] = splits[name]
    return renamed


def _saved(folder: pathlib.Path) -> dict[str, list[str]]:
    """Arrow files of each split in a folder that `save_to_disk` wrote."""

    def is_saved(place):
        names = ('state.json', 'dataset_info.json')
        return all((place / name).is_file() for name in names)

    if is_saved(folder):
        return {ALL: _files_of_state(folder, folder)}
    states = {
        place.name: _files_of_state(place, folder)
        for place in sorted(folder.iterdir())
        if is_saved(place)
    }
    return _by_our_names(states)


def _files_of_state(place, folder):
    state = read_given_json(place / 'state.json')
    try:
        names = [entry['filename'] for entry in state['_data_files']]
    except (KeyError, TypeError) as error:
        raise ValueError(
            f'{place / "state.json"}: not written by the library datasets '
            '(no list _data_files with a filename each)'
        ) from error
    for name in filter(lambda name: not column.is_inside(name), names):
        raise ValueError(
            f'{place / "state.json"}: a filename must be a path in the folder of this '
            f'file, relative to it, found {show(name)}'
        )
    return [str((place / name).relative_to(folder)) for name in names]


def _described(folder: pathlib.Path) -> dict[str, list[str]]:
    """The metadata file of each split."""
    files = {}
    for place in (folder, *_split_folders(folder)):
        split = ALL if place == folder else place.name
        names = [name for name in _METADATA if (place / name).is_file()]
        if len(names) > 1:
            raise ValueError(f'{place}: there are both {" and ".join(names)}')
        if names:
            files[split] = [str((place / names[0]).relative_to(folder))]
        else:
            _check_no_csv(place / 'metadata.csv')
    if len(files) > 1 and ALL in files:
        raise ValueError(
            f'{folder}: {files[ALL][0]} describes the whole folder, but there are '
            f'others for splits: {", ".join(f[0] for f in files.values())}. Give the '
            'path of one of them'
        )
    return _by_our_names(files)


def _check_no_csv(file):
    """Raises ValueError if this file of texts should describe objects."""
    if file.is_file():
        with open(file, encoding='utf-8', errors='replace') as opened:
            columns = opened.readline().strip().split(',')
        if 'objects' in columns:
            raise ValueError(
                f'{file}: a table of texts, in which objects cannot be lists of boxes; '
                'write a metadata.jsonl with the same columns'
            )


def _shards(folder: pathlib.Path) -> dict[str, list[str]]:
    """The Parquet files of each split, told apart by their names and folders."""
    data = folder / 'data'
    for places in ([folder], [data], _split_folders(folder), _split_folders(data)):
        splits = {}
        for place in places:
            of_place = place.name if place not in (folder, data) else ALL
            for file in sorted(place.glob(f'*{arrow_files.PARQUET}')):
                shard = _SHARD.fullmatch(file.stem)
                split = shard[1] if shard else split_name(file.stem) or of_place
                name = str(file.relative_to(folder))
                splits.setdefault(split, []).append(name)
        if splits:
            return _by_our_names(splits)
    return {}


def _split_folders(folder):
    """The folders in a folder that have the name of a split."""
    if not folder.is_dir():
        return []
    return [
        place
        for place in sorted(folder.iterdir())
        if split_name(place.name) and place.is_dir()
    ]
