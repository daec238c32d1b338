"""COCO's annotation files, and where they lie in a folder."""

import contextlib
import dataclasses
import json
import mmap
import os
import pathlib
import re
from collections.abc import Container, Iterator, Mapping

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.coco import annotation_file
from atss_jax.data.forms.form import ALL, in_order, split_name
from atss_jax.data.forms.moved_images import find_moved

_OTHER_TASKS = ('captions', 'keypoints', 'panoptic', 'stuff', 'image_info')
_LOOKED_AT = 20  # images of a file that say in which folder they lie
_FILE_NAME = re.compile(rb'"file_name"\s*:\s*("(?:[^"\\]|\\.)+")')


@dataclasses.dataclass(frozen=True)
class CocoForm:
    """One or several COCO files and their images; fields as in `Form`.

    Attributes:
        path: the folder or file that the user gave.
        folder: folder that the images' file names are relative to.
        splits: path of the annotation file of each split, relative to `folder`.
    """

    path: str
    folder: str
    splits: Mapping[str, str]
    name: str = 'COCO'

    def read(
        self,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: Container[str] | None = None,
    ) -> Annotations:
        """Reads and checks the annotation file of a split, as `Form.read` says."""
        path = os.path.join(self.folder, self.splits[split])
        images = image_folder(path)
        annotations = annotation_file.read(
            path, on_error, training, images, classes, with_root=False
        )
        names = find_moved(path, annotations.file_names, images, _image_places(path))
        inside = os.path.relpath(images, self.folder)
        if inside != '.':
            names = [os.path.join(inside, name) for name in names]
        return dataclasses.replace(annotations, file_names=names)

    def image_content(self, path: str) -> bytes:
        """The bytes of an image file."""
        return image_file.file_content(path)


def find(path: str) -> CocoForm | None:
    """The COCO files at a path; None if there are none.

    It may be an annotation file, a folder with one file or one for each split (in
    itself or in `annotations/`), or a folder with a folder for each split, in which the
    file lies next to the images, as Roboflow exports it.

    Raises:
        ValueError: several files could be that of one split.
    """
    given = pathlib.Path(path)
    if given.is_file():
        if given.suffix.lower() != '.json' or not _is_coco(given):
            return None
        return CocoForm(path, str(given.parent), {ALL: given.name})
    if not given.is_dir():
        return None
    splits = {}
    for file in _candidates(given):
        inside = file.relative_to(given)
        split = split_name(file.stem) or split_name(inside.parent.name) or ALL
        if split in splits:
            raise ValueError(
                f'{path}: both {splits[split]} and {inside} are COCO files of the '
                f'split {split!r}; give the path of one of them'
            )
        splits[split] = str(inside)
    if len(splits) > 1 and ALL in splits:
        raise ValueError(
            f'{path}: the name of {splits[ALL]} does not say whether it is of train, '
            f'val or test, but there are others: {", ".join(splits.values())}. Rename '
            'it, or give the path of one of them'
        )
    return CocoForm(path, path, in_order(splits)) if splits else None


def _candidates(folder):
    """COCO files in the folder, in `annotations/`, or in folders of splits."""
    places = [folder, folder / 'annotations']
    places += sorted(each for each in folder.iterdir() if split_name(each.name))
    files = [
        file
        for place in places
        if place.is_dir()
        for file in sorted(place.glob('*.json'))
        if not any(task in file.name for task in _OTHER_TASKS) and _is_coco(file)
    ]
    instances = [file for file in files if file.name.startswith('instances_')]
    return instances or files


def image_folder(ann_file: str) -> str:
    """The folder that the file names of a COCO file are relative to.

    It is the one, among those near the file, in which most of the first images lie;
    the file's own if there is none.
    """
    file = pathlib.Path(ann_file)
    here, stem = file.parent, file.stem.removeprefix('instances_')
    folders = [
        parent / inside
        for parent in (here, here.parent)
        for inside in ('.', 'images', stem, f'images/{stem}')
    ]
    names = _first_names(file)
    counts = [
        sum(os.path.isfile(image_file.locate(str(folder), name)) for name in names)
        for folder in folders
    ]
    return str(folders[counts.index(max(counts))])


def _image_places(ann_file):
    """Folders to search, in all of their folders, for images of a COCO file."""
    here = pathlib.Path(ann_file).parent
    root = here.parent if here.name.lower() == 'annotations' else here
    return [str(place) for place in (root, here.parent / 'images') if place.is_dir()]


def _first_names(file):
    """File names of some images of a COCO file, which is not parsed."""
    names = []
    with _mapped(file) as content:
        for match in _FILE_NAME.finditer(content):
            with contextlib.suppress(ValueError):
                names.append(json.loads(match[1]))
            if len(names) == _LOOKED_AT:
                break
    return names


def _is_coco(file):
    """Whether a file has the keys of a COCO file; it is not parsed."""
    if not file.is_file() or not file.stat().st_size:
        return False
    with _mapped(file) as content:
        return content.find(b'"images"') >= 0 and content.find(b'"categories"') >= 0


@contextlib.contextmanager
def _mapped(file: pathlib.Path) -> Iterator[mmap.mmap | bytes]:
    """The text of a file in UTF-8, read only where it is looked at."""
    with (
        open(file, 'rb') as opened,
        mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        encoding = json.detect_encoding(content[:4])
        if encoding.startswith('utf-8'):
            yield content
        else:  # such as Windows' shells write; too rare to be read in parts
            yield content[:].decode(encoding, 'replace').encode()
