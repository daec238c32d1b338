"""All images of a data set, pooled from its splits, with what groups them."""

import dataclasses
import os
import re
from collections.abc import Sequence

import numpy as np

from atss_jax.data import image_file
from atss_jax.data.annotations import Annotations
from atss_jax.data.check.decoded import pixel_digest
from atss_jax.data.forms.form import Form
from atss_jax.files.read_ahead import map_ahead


@dataclasses.dataclass(frozen=True)
class Pool:
    """The images of a data set; ids are renumbered from 1 if there are several splits.

    Attributes:
        annotations: of all splits.
        paths: of each image, as `Form.image_content` takes them.
        digests: of each image, equal for equal images; empty if it cannot be read.
    """

    annotations: Annotations
    paths: list[str]
    digests: list[str]

    def keys(self, group_by: str | None) -> list[list[str]]:
        """What groups each image: its content, and a part of its file name.

        Args:
            group_by: regular expression, searched for in file names; images whose first
                captured group (or match, without groups) is equal have one key.

        Raises:
            ValueError: it is not a regular expression, or fits no name.
        """
        names = self.annotations.file_names
        keys = [[f'content {digest}'] if digest else [] for digest in self.digests]
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


def read_pool(form: Form, on_error: str = 'raise') -> Pool:
    """Reads all splits of a data set and decodes its images.

    Raises:
        ValueError: annotations are malformed, or splits disagree about classes.
        OSError: a file cannot be read.
    """
    tables = [form.read(split, on_error) for split in form.splits]
    annotations = tables[0] if len(tables) == 1 else _join(tables)
    if not annotations.file_names:
        raise ValueError(f'{form.path}: no images')
    paths = [image_file.locate(form.folder, name) for name in annotations.file_names]
    digests = map_ahead(lambda path: _digest(form, path), paths)
    return Pool(annotations, paths, list(digests))


def _digest(form, path):
    """Hash of an image's pixels; of its bytes if they cannot be decoded."""
    try:
        content = form.image_content(path)
    except OSError:
        return ''
    try:
        return pixel_digest(image_file.decode(content, None, path, form.path))
    except image_file.BadImage:
        return pixel_digest(np.frombuffer(content, np.uint8))


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
