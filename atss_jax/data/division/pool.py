"""All images of a data set, pooled from its splits, with what groups them."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.check.decoded import judge
from atss_jax.data.forms.form import Form
from atss_jax.files.read_ahead import map_ahead


@dataclasses.dataclass(frozen=True)
class Pool:
    """The images of a data set; ids are renumbered from 1 if there are several splits.

    Attributes:
        annotations: of all splits.
        paths: of each image, as `Form.image_content` takes them.
        digests: of each image, equal for equal images.
        unusable: why an image that was left out cannot be used, by its file name.
    """

    annotations: Annotations
    paths: list[str]
    digests: list[str]
    unusable: dict[str, str]

    def keys(self, group_by: str | None) -> list[list[str]]:
        """What groups each image: its content, and a part of its file name.

        Args:
            group_by: regular expression, searched for in file names; images whose first
                captured group (or match, without groups) is equal have one key.

        Raises:
            ValueError: it is not a regular expression, or fits no name.
        """
        names = self.annotations.file_names
        keys = [[f'content {digest}'] for digest in self.digests]
        if group_by is None:
            return keys
        try:
            pattern = re.compile(group_by)
        except re.error as error:
            raise ValueError(f'--group_by={group_by}: {error}') from error
        matches = [pattern.search(name) for name in names]
        if not any(matches):
            raise ValueError(
                f'--group_by={group_by} fits none of the {len(names)} file names, such '
                f'as {names[0]}'
            )
        for image_keys, match in zip(keys, matches, strict=True):
            if match:
                image_keys.append(f'name {match[1 if pattern.groups else 0]}')
        return keys


def read_pool(
    form: Form, on_error: str = 'raise', splits: Sequence[str] | None = None
) -> Pool:
    """Reads splits of a data set and decodes their images.

    Images that training could not use (missing, cut off, not of the annotated size) are
    left out, with their annotations.

    Args:
        form: the data set.
        on_error: 'raise' or 'skip' malformed records.
        splits: of the data set; None: all.

    Raises:
        ValueError: annotations are malformed, or splits disagree about classes, or no
            image can be used.
        OSError: a file cannot be read.
    """
    chosen = form.splits if splits is None else splits
    tables = [form.read(split, on_error) for split in chosen]
    annotations = tables[0] if len(tables) == 1 else _join(tables)
    _check_has_objects(form, annotations)
    paths = [image_file.locate(form.folder, name) for name in annotations.file_names]
    sizes = map(tuple, annotations.image_sizes.tolist())
    images = list(
        map_ahead(
            lambda image: _decode(form, *image), list(zip(paths, sizes, strict=True))
        )
    )
    usable = [row for row, image in enumerate(images) if image.digest]
    if not usable:
        raise ValueError(
            f'{form.path}: none of its {len(images)} images can be used; the first: '
            f'{images[0].message}'
        )
    unusable = {
        name: image.reason
        for name, image in zip(annotations.file_names, images, strict=True)
        if image.reason
    }
    return Pool(
        _only(annotations, usable),
        [paths[row] for row in usable],
        [images[row].digest for row in usable],
        unusable,
    )


def _check_has_objects(form, annotations):
    if not annotations.file_names:
        raise ValueError(f'{form.path}: no images')
    if not annotations.categories:
        raise ValueError(f'{form.path}: has no classes, so there is nothing to detect')
    if not len(annotations.annotation_ids):
        raise ValueError(
            f'{form.path}: none of the {len(annotations.file_names)} images has an '
            'object, so there is nothing to train on'
        )


def _decode(form, path, size):
    def read():
        return image_file.decode(form.image_content(path), size, path, form.path)

    return judge(read)


def _only(table: Annotations, rows: list[int]) -> Annotations:
    """The images of some rows of a table, and their annotations."""
    image_ids = table.image_ids[rows]
    chosen = np.isin(table.annotation_images, image_ids)
    return dataclasses.replace(
        table,
        image_ids=image_ids,
        file_names=[table.file_names[row] for row in rows],
        image_sizes=table.image_sizes[rows],
        annotation_ids=table.annotation_ids[chosen],
        annotation_images=table.annotation_images[chosen],
        annotation_categories=table.annotation_categories[chosen],
        boxes=table.boxes[chosen],
        areas=table.areas[chosen],
        crowds=table.crowds[chosen],
        dropped=table.dropped[chosen],
    )


def _join(tables: Sequence[Annotations]) -> Annotations:
    """One table of several, with new ids; classes are those of the first, by name."""
    names = list(tables[0].categories.values())
    for table in tables[1:]:
        if sorted(table.categories.values()) != sorted(names):
            raise ValueError(
                f'{table.path} has the classes {", ".join(table.categories.values())}, '
                f'but {tables[0].path} has {", ".join(names)}: splits are joined only '
                'if their classes are the same'
            )
    id_of = {name: id_ for id_, name in tables[0].categories.items()}
    images, categories, start = [], [], 1
    for table in tables:
        row_of = {id_: row for row, id_ in enumerate(table.image_ids.tolist())}
        images += [start + row_of[id_] for id_ in table.annotation_images.tolist()]
        categories += [
            id_of[table.categories[id_]] for id_ in table.annotation_categories.tolist()
        ]
        start += len(table.image_ids)

    def stacked(name):
        return np.concatenate([getattr(table, name) for table in tables])

    return Annotations(
        path=os.path.commonpath([os.path.abspath(table.path) for table in tables]),
        image_ids=np.arange(1, start, dtype=np.int64),
        file_names=[name for table in tables for name in table.file_names],
        image_sizes=stacked('image_sizes'),
        annotation_ids=np.arange(1, len(images) + 1, dtype=np.int64),
        annotation_images=np.array(images, np.int64),
        annotation_categories=np.array(categories, np.int64),
        boxes=stacked('boxes'),
        areas=stacked('areas'),
        crowds=stacked('crowds'),
        dropped=stacked('dropped'),
        categories=tables[0].categories,
    )
