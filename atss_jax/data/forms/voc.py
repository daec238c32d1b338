"""Pascal VOC data sets: where their annotations and images lie, and what they hold."""

import dataclasses
import os
import pathlib
import re
import warnings
from collections.abc import Container, Mapping

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import TEXT
from atss_jax.data.forms import class_names, image_files, voc_table, voc_xml
from atss_jax.data.forms.form import (
    ALL,
    Incomplete,
    in_order,
    split_name,
    split_of_folders,
)
from atss_jax.data.forms.voc_images import ImagesByStem

CLASS_FILES = ('classes.txt', 'labels.txt')
"""Files that give the order of the classes; without one they are sorted by name."""

_ANNOTATIONS, _IMAGES = 'Annotations', 'JPEGImages'
_LISTS = 'ImageSets/Main'
_SHOWN = 5  # images that a warning names
_LOOKED_AT = 20  # XML files that say whether they are those of VOC
_IS_VOC = re.compile(rb'<annotation[\s>]')
_FLAG = re.compile(r'\s+-?[01]$')  # second column of a list: has it such an object?


@dataclasses.dataclass(frozen=True)
class VocForm:
    """An XML file for each image; fields as in `Form`.

    Attributes:
        path: the folder that the user gave.
        folder: folder that the images' file names are relative to.
        splits: list of images or folder of annotation files of each split, relative
            to `folder`.
        has_lists: whether they are lists.
        parsed: annotation files by path, to which reading adds, so that reading another
            split need not parse them again; None: nothing is kept.
    """

    path: str
    folder: str
    splits: Mapping[str, str]
    has_lists: bool
    name: str = 'Pascal VOC'
    parsed: dict[str, voc_xml.VocFile] | None = dataclasses.field(
        default=None, compare=False, repr=False
    )

    def read(
        self,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: Container[str] | None = None,
    ) -> Annotations:
        """Reads and checks the annotation files of a split, as `Form.read` says.

        Objects that are `difficult` become crowds: mmdet treats both in the same way,
        as regions that are no target. `truncated` has no effect, as there.

        A listed image without annotation file is an error in training. An image that no
        list names and that has no annotation file is not part of the data set.
        """
        owner = os.path.normpath(os.path.join(self.folder, self.splits[split]))
        existing = _annotation_files(self.folder, self.has_lists)
        listed = {each: self._listed(each, existing) for each in self.splits}
        every = {file for each in listed.values() for file, _ in each} | existing
        source = self._class_file()
        # Without it the names of all splits are needed, so that their labels agree.
        needed = {file for file, _ in listed[split]} if source else every
        contents = self._contents(sorted(needed & existing))
        names = class_names.read_file(source) if source else _names(contents)
        class_names.check_unique(source or owner, names, classes)

        candidates = ImagesByStem(self.folder)
        if not self.has_lists:
            _warn_of_unused(owner, candidates, every)
        # Of this split alone: another one that changes must not change them.
        files = dict.fromkeys(file for file, _ in listed[split])
        ids = {file: number for number, file in enumerate(files, 1)}
        rows = []
        for file, at in listed[split]:
            content = contents.get(file)
            images = candidates.of(file, content.image_name if content else '')
            row = {'at': at, 'file': file, 'parsed': content, 'image': images}
            rows.append({'image_id': ids[file], **row})
        table = voc_table.check_images(owner, self.folder, rows, on_error, training)
        classes_of = source or 'all annotation files'
        objects = voc_table.check_objects(owner, table, names, classes_of, on_error)
        return voc_table.annotations(owner, table, objects, names)

    def image_content(self, path: str) -> bytes:
        """The bytes of an image file."""
        return image_file.file_content(path)

    def _listed(self, split, existing):
        """Path of the annotation file of each image, sorted, and where it is named."""
        if self.has_lists:
            return sorted(_of_list(self.folder, self.splits[split], existing))
        return [(file, file) for file in sorted(existing) if _split_of(file) == split]

    def _class_file(self):
        folders = [self.folder, os.path.join(self.folder, _ANNOTATIONS)]
        return class_names.find_file(folders, CLASS_FILES)

    def _contents(self, files):
        parsed = {} if self.parsed is None else self.parsed
        new = [file for file in files if file not in parsed]
        paths = [os.path.join(self.folder, file) for file in new]
        parsed.update(zip(new, voc_xml.read(paths), strict=True))
        return {file: parsed[file] for file in files}


def _names(contents):
    names = {
        row.get('name') for content in contents.values() for row in content.objects
    }
    return tuple(sorted(filter(TEXT.holds, names)))


def _warn_of_unused(owner, candidates, files):
    if unused := candidates.without(files):
        more = ', ...' if len(unused) > _SHOWN else ''
        warnings.warn(
            f'{owner}: {len(unused)} images have no annotation file and are not used '
            f'({", ".join(unused[:_SHOWN])}{more})',
            stacklevel=3,
        )


def _annotation_files(folder: str, has_lists: bool) -> set[str]:
    """Paths of the XML files of a data set, relative to its folder."""
    if not has_lists:
        return set(image_files.files_below(folder, ('.xml',)))
    names = image_files.files_below(os.path.join(folder, _ANNOTATIONS), ('.xml',))
    return {f'{_ANNOTATIONS}/{name}' for name in names}


def _of_list(folder, place, existing):
    with open(os.path.join(folder, place), encoding='utf-8-sig') as file:
        lines = [line.strip() for line in file]
    for number, name in enumerate(lines, 1):
        path = f'{_ANNOTATIONS}/{name}.xml'
        if path not in existing:  # the name may end in a blank and a digit, too
            name = _FLAG.sub('', name)
            path = f'{_ANNOTATIONS}/{name}.xml'
        if path not in existing and image_files.suffix(name) in image_files.SUFFIXES:
            path = f'{_ANNOTATIONS}/{os.path.splitext(name)[0]}.xml'
        if name:
            yield path, f'{place}:{number}'


def _split_of(file: str) -> str:
    """The split that a folder of a path names; `ALL` if none does."""
    folders = pathlib.PurePosixPath(file).parent.parts
    return split_of_folders(folders) or ALL


# Finding ------------------------------------------------------------------------------


def find(path: str) -> VocForm | None:
    """The VOC data set at a path; None if there is none.

    It may be a folder with `Annotations` and the lists of `ImageSets/Main`, one with
    such a folder in it (`VOCdevkit`), or any folder with XML files of images in it;
    folders named as splits (`train`) then divide it.

    Raises:
        Incomplete: annotation files lie there, but no images.
        ValueError: there are several such folders, or the splits are not clear.
    """
    if not os.path.isdir(path):
        return None
    folder = _of_development_kit(pathlib.Path(path))
    lists = _lists(folder)
    files = _annotation_files(folder, bool(lists))
    if not any(
        _is_voc(os.path.join(folder, file)) for file in sorted(files)[:_LOOKED_AT]
    ):
        return None
    images = os.path.join(folder, _IMAGES)
    if not image_files.has_any(images if os.path.isdir(images) else folder):
        raise Incomplete(
            f'{path}: there are annotation files as those of Pascal VOC, such as '
            f'{min(files)}, but no images. They lie next to the annotation files, or '
            'in JPEGImages/ next to Annotations/; give the path of the folder with both'
        )
    if lists:
        return VocForm(path, folder, in_order(lists), has_lists=True)
    splits = {}
    for file in files:
        splits.setdefault(_split_of(file), []).append(os.path.dirname(file))
    if len(splits) > 1 and ALL in splits:
        others = ', '.join(in_order({s: s for s in splits if s != ALL}))
        outside = min(file for file in files if _split_of(file) == ALL)
        raise ValueError(
            f'{path}: some annotation files lie in folders of {others}, but others, '
            f'such as {outside}, in none of them. Move them, or give the path of the '
            'part that you want'
        )
    places = {split: os.path.commonpath(each) or '.' for split, each in splits.items()}
    return VocForm(path, folder, in_order(places), has_lists=False)


def _is_voc(path):
    with open(path, 'rb') as file:
        return bool(_IS_VOC.search(file.read(4096)))


def _of_development_kit(path: pathlib.Path) -> str:
    """The folder of a year (`VOCdevkit/VOC2012`), or the path itself."""
    if (path / _ANNOTATIONS).is_dir():
        return str(path)
    places = [*path.iterdir(), *(path / 'VOCdevkit').glob('*')]
    years = [str(each) for each in sorted(places) if os.path.isdir(each / _LISTS)]
    others = [str(each) for each in sorted(places) if _is_whole(each)]
    several = years if years else others
    if len(several) > 1:
        raise ValueError(
            f'{path}: several VOC data sets lie there: {", ".join(several)}. Give the '
            'path of one of them'
        )
    return years[0] if years else str(path)


def _is_whole(folder):
    """Whether a folder, which is not that of a split, is a data set without lists."""
    names = (_ANNOTATIONS, _IMAGES)
    return not split_name(folder.name) and all(
        os.path.isdir(folder / name) for name in names
    )


def _lists(folder: str) -> dict[str, str]:
    """Path of the list of each split; lists of one class (`dog_train.txt`) are none."""
    stems = {file.stem for file in pathlib.Path(folder, _LISTS).glob('*.txt')}
    lists = {}
    for stem in sorted(stems):
        if any(stem.endswith(f'_{other}') for other in stems):
            continue
        split = split_name(stem) or stem
        if split in lists:
            raise ValueError(
                f'{folder}: both {lists[split]} and {_LISTS}/{stem}.txt are lists of '
                f'the split {split!r}; delete or rename one of them'
            )
        lists[split] = f'{_LISTS}/{stem}.txt'
    if list(lists) == ['default']:  # as CVAT names the only one
        return {ALL: lists['default']}
    return lists
