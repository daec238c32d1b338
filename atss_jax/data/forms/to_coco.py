"""Writes a data set of any form as a COCO file, and its images as files."""

import dataclasses
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import tqdm

from atss_jax.data import image_file, image_header
from atss_jax.data.annotations import Annotations
from atss_jax.data.forms import arrow_files
from atss_jax.data.forms.dataset import FLAG, check_split
from atss_jax.data.forms.find import describe, find
from atss_jax.data.forms.form import ALL, Form
from atss_jax.data.forms.image_files import SUFFIXES, suffix
from atss_jax.files.atomic import check_file_writable, write_bytes, write_json

_SUFFIX_OF_KIND = {'JPEG': '.jpg', 'PNG': '.png', 'WebP': '.webp', 'BMP': '.bmp'}
_SUFFIX_OF_KIND |= {'TIFF': '.tif', 'GIF': '.gif'}


@dataclasses.dataclass(frozen=True)
class Conversion:
    """A COCO file that has been written.

    Attributes:
        source: one line about the data set that it was made of.
        split: the split of it.
        ann_file: path of the COCO file.
        img_prefix: folder that its file names are relative to.
        counts: number of images, annotations and categories.
    """

    source: str
    split: str
    ann_file: str
    img_prefix: str
    counts: tuple[int, int, int]


def write_coco(
    path: str,
    ann_file: str,
    split: str | None = None,
    images: str | None = None,
    on_error: str = 'raise',
    overwrite: bool = False,
) -> Conversion:
    """Writes a split of a data set as a COCO file.

    Read again, it gives the same annotations. Without `images` no image is copied: the
    file names lead from the folder of the COCO file to the images where they lie.

    Args:
        path: folder, annotation file or address of the data set.
        ann_file: path of the COCO file to write.
        split: of the data set; None: the only one.
        images: folder to write the images to, unchanged, each under its own name, after
            the split and its id if two would have the same; None: they stay where they
            are.
        on_error: 'raise' or 'skip' malformed records, see `Form.read`.
        overwrite: whether existing files are replaced.

    Raises:
        FileNotFoundError: there is nothing at `path`, or an image is missing.
        FileExistsError: a file exists already.
        ValueError: no known form lies at `path`; it has no such split, or several, and
            none is chosen; it is malformed; its images are no files, and `images` is
            None.
    """
    if os.path.exists(ann_file) and not overwrite:
        raise FileExistsError(_exists(ann_file))
    check_file_writable(ann_file)
    form = find(path)
    split = _the_split(form, split)
    annotations = form.read(split, on_error, training=False)
    paths = image_paths(form, annotations)
    if images is None:
        img_prefix = os.path.dirname(ann_file) or os.curdir
        names = _names_in_place(form, annotations.file_names, paths, img_prefix)
    else:
        img_prefix, prefix = images, '' if split == ALL else f'{split}_'
        names = _plain_names(annotations.image_ids.tolist(), paths, prefix)
        names = _copy_images(form, paths, names, images, overwrite)
    annotations = dataclasses.replace(annotations, file_names=names)
    write_json(ann_file, as_coco(annotations))
    columns = annotations.image_ids, annotations.annotation_ids, annotations.categories
    counts = tuple(map(len, columns))
    return Conversion(describe(form), split, ann_file, img_prefix, counts)


def image_paths(form: Form, annotations: Annotations) -> list[str]:
    """Path of each image, for `form.image_content`."""
    return [image_file.locate(form.folder, name) for name in annotations.file_names]


def relative_to(path: str, folder: str) -> str:
    """The path of an image file relative to a folder, with slashes."""
    # Links are followed first: `..` leads out of what a link leads to.
    start = os.path.realpath(folder)
    parent, name = os.path.split(path)
    return pathlib.Path(
        os.path.relpath(os.path.join(os.path.realpath(parent), name), start)
    ).as_posix()


def as_coco(annotations: Annotations) -> dict[str, Any]:
    """The COCO dict of all that is in the table."""
    content = annotations.as_dict()
    for row, is_dropped in zip(
        content['annotations'], annotations.dropped.tolist(), strict=True
    ):
        if is_dropped:
            row['ignore'] = 1
    return content


def _the_split(form, split):
    if split is not None:
        check_split(form, split, FLAG)
        return split
    if len(form.splits) > 1:
        raise ValueError(
            f'{form.path} ({form.name}) has the splits {", ".join(form.splits)}, and a '
            'COCO file holds one: choose it with --split'
        )
    return next(iter(form.splits))


def _exists(file):
    return f'{file} exists already; choose another name, or set --overwrite'


def _names_in_place(form, file_names, paths, folder):
    """Names that lead from a folder to the images where they lie."""
    for path in paths:
        file = arrow_files.file_of(path)
        if file != path and not os.path.exists(path):
            raise ValueError(
                f'{form.path}: the images are stored in files such as {file}, and a '
                'COCO file names image files: set --images to a folder to write them to'
            )
    return [
        name if '://' in name else relative_to(path, folder)
        for name, path in zip(file_names, paths, strict=True)
    ]


def _copy_images(form, paths, names, folder, overwrite):
    """Writes the images to a folder; gives the names, now all with endings."""
    # disable=None: a bar on a terminal, nothing in a log file.
    progress = tqdm.tqdm(paths, desc='images', disable=None)
    written = []
    for name, path in zip(names, progress, strict=True):
        content = form.image_content(path)
        file = os.path.join(folder, name + _missing_suffix(name, content))
        # One that is the same is there after an interruption, or for another split.
        is_there = os.path.exists(file) and image_file.file_content(file) == content
        if os.path.exists(file) and not is_there and not overwrite:
            raise FileExistsError(_exists(file) + ', or another folder --images')
        if not is_there:
            write_bytes(file, content)
        written.append(os.path.basename(file))
    return written


def _plain_names(ids: Sequence[int], paths: Sequence[str], prefix: str) -> list[str]:
    """The last part of each path, after prefix and id of the image if two are alike.

    They are compared up to their endings and without regard to case, as some file
    systems and forms of annotations do. The prefix tells splits apart that are written
    to one folder, since their ids may be the same.
    """
    names = [os.path.basename(path) for path in paths]
    stems = {os.path.splitext(name)[0].casefold() for name in names}
    if len(stems) == len(names):
        return names
    return [f'{prefix}{id_}_{name}' for id_, name in zip(ids, names, strict=True)]


def _missing_suffix(name: str, content: bytes) -> str:
    """What to append to a name that does not end as those of images do."""
    header = None if suffix(name) in SUFFIXES else image_header.read(content)
    return '' if header is None else _SUFFIX_OF_KIND[header.kind]
