"""Divides a data set of any form into splits and writes them as COCO files."""

import dataclasses
import os
import pathlib
from collections.abc import Mapping

import numpy as np

from atss_jax.data import image_file, image_header
from atss_jax.data.annotations import Annotations
from atss_jax.data.division.pool import Pool, read_pool
from atss_jax.data.division.stratify import assign_splits, join_groups
from atss_jax.data.forms.form import Form
from atss_jax.data.forms.to_coco import as_coco, relative_to
from atss_jax.files.atomic import filling, write_bytes, write_json

_ORDER = ('train', 'val', 'test')
_MAX_NAMED = 10  # images that a warning lists
_UNFINISHED = '.unfinished'


@dataclasses.dataclass(frozen=True)
class Division:
    """Which split each image of a data set goes to.

    Attributes:
        pool: the images.
        names: of the splits.
        split_of: (N,) int64, index of the split of each image.
        num_groups: number of groups of images that stayed together.
        counts: (S,C) objects by split and class.
        images: (S,C) images with objects of the class by split and class.
        kept: the splits of the data set that stay as they are, by their names.
    """

    pool: Pool
    names: tuple[str, ...]
    split_of: np.ndarray
    num_groups: int
    counts: np.ndarray
    images: np.ndarray
    kept: Mapping[str, Annotations] = dataclasses.field(default_factory=dict)

    @property
    def classes(self) -> list[str]:
        """Name of each class."""
        return list(self.pool.annotations.categories.values())

    def remarks(self) -> list[str]:
        """What a user should know about the division, one line each."""
        lines = []
        if unusable := self.pool.unusable:
            named = [f'{name} ({why})' for name, why in unusable.items()][:_MAX_NAMED]
            more = ', ...' if len(unusable) > _MAX_NAMED else ''
            images = 'image' if len(unusable) == 1 else 'images'
            lines.append(
                f'{len(unusable)} {images} cannot be used and left out: '
                f'{", ".join(named)}{more}'
            )
        for number, name in enumerate(self.names):
            if not (self.split_of == number).any():
                lines.append(
                    f'{name} has no images: there are only {self.num_groups} groups of '
                    'images that have to stay together'
                )
        for label, name in enumerate(self.classes):
            lacking = [
                split
                for split, count in zip(self.names, self.counts[:, label], strict=True)
                if not count
            ]
            if lacking:
                total = self.images[:, label].sum()
                lines.append(
                    f'class {name}: none in {" and ".join(lacking)}; {total} '
                    f'{"image has" if total == 1 else "images have"} it in all'
                )
        return lines


def divide(
    form: Form,
    shares: dict[str, float],
    seed: int,
    group_by: str | None = None,
    on_error: str = 'raise',
    split: str | None = None,
) -> Division:
    """Assigns the images of a data set, or of one of its splits, to new splits.

    The result is a function of the images' content and names, the annotations, the
    shares and the seed; the order of the images does not matter.

    Args:
        form: the data set.
        shares: of 'train', 'val' and 'test'; splits of share 0 are not made.
        seed: of the random order.
        group_by: see `Pool.keys`.
        on_error: 'raise' or 'skip' malformed records.
        split: of the data set, whose other splits are kept; None: all of it, whatever
            its splits are.

    Raises:
        ValueError: the data are malformed, or a new split has the name of one that is
            kept.
        OSError: the data cannot be read.
    """
    names = tuple(name for name in _ORDER if shares.get(name, 0) > 0)
    others = [] if split is None else [each for each in form.splits if each != split]
    _check_new(names, others, split)
    pool = read_pool(form, on_error, None if split is None else (split,))
    kept = {each: form.read(each, on_error, training=False) for each in others}
    counts = _class_counts(pool)
    groups = _group_of_each(pool, group_by)
    num_groups = int(groups.max()) + 1
    group_counts = np.zeros((num_groups, counts.shape[1]), np.int64)
    np.add.at(group_counts, groups, counts)
    split_of = assign_splits(
        group_counts, np.bincount(groups), [shares[name] for name in names], seed
    )[groups]
    by_split = [split_of == number for number in range(len(names))]
    return Division(
        pool,
        names,
        split_of,
        num_groups,
        np.stack([counts[rows].sum(0) for rows in by_split]),
        np.stack([(counts[rows] > 0).sum(0) for rows in by_split]),
        kept,
    )


def _check_new(names, kept, split):
    """Raises ValueError if a split to make has the name of one that is kept."""
    taken = [name for name in names if name in kept]
    if taken:
        raise ValueError(
            f'--split={split}: the data set has {" and ".join(taken)} already, which '
            f'{split} would be divided into. Set --{taken[0]}=0, or pool all splits '
            'with --join'
        )


def _group_of_each(pool: Pool, group_by: str | None) -> np.ndarray:
    """(N,) int64 group of each image; the order of the images does not matter."""
    order = sorted(
        range(len(pool.digests)),
        key=lambda row: (pool.digests[row], pool.annotations.file_names[row]),
    )
    keys = pool.keys(group_by)
    groups = np.empty(len(order), np.int64)
    groups[order] = join_groups([keys[row] for row in order])
    return groups


def _class_counts(pool: Pool) -> np.ndarray:
    """(N,C) int64 number of objects of each class in each image."""
    table = pool.annotations
    row_of = {id_: row for row, id_ in enumerate(table.image_ids.tolist())}
    label_of = {id_: label for label, id_ in enumerate(table.categories)}
    counts = np.zeros((len(row_of), len(label_of)), np.int64)
    for image, category in zip(
        table.annotation_images.tolist(),
        table.annotation_categories.tolist(),
        strict=True,
    ):
        counts[row_of[image], label_of[category]] += 1
    return counts


def check_empty(folder: str) -> None:
    """Raises ValueError if a folder to write to has content or is a file.

    What an interrupted division left there does not count.
    """
    place = pathlib.Path(folder)
    if place.exists() and not place.is_dir():
        raise ValueError(f'--out={folder}: is a file; expected a new folder')
    if place.is_dir() and {file.name for file in place.iterdir()} - {_UNFINISHED}:
        raise ValueError(
            f'--out={folder}: the folder is not empty; nothing is overwritten. Remove '
            'it, or give another one'
        )


def write_division(division: Division, form: Form, folder: str, copy: bool) -> None:
    """Writes `annotations/instances_SPLIT.json` in a folder, for `type='auto'`.

    File names lead from the folder to the images where they lie. Images that are not
    files, or all with `copy`, are written to `images/`. All is written or, if it fails
    or is interrupted, nothing.

    Args:
        division: what goes where.
        form: the data set, for its images.
        folder: to write to.
        copy: whether to copy the images.

    Raises:
        ValueError: the folder is not empty.
        OSError: it cannot be written to, or an image cannot be read.
    """
    check_empty(folder)
    with filling(folder, _UNFINISHED) as unfinished:

        def names_of(table, paths, prefix=''):
            ids = table.image_ids.tolist()
            return [
                relative_to(path, folder)
                if os.path.isfile(path) and not copy
                else _write_image(
                    form.image_content(path), f'{prefix}{id_:012}', unfinished
                )
                for path, id_ in zip(paths, ids, strict=True)
            ]

        pool = division.pool
        _write_annotations(division, names_of(pool.annotations, pool.paths), unfinished)
        for split, table in division.kept.items():
            paths = [image_file.locate(form.folder, name) for name in table.file_names]
            names = names_of(table, paths, f'{split}_')
            content = as_coco(dataclasses.replace(table, file_names=names))
            write_json(_annotation_file(unfinished, split), content)


def _write_annotations(division, names, folder):
    annotations = dataclasses.replace(division.pool.annotations, file_names=names)
    content = as_coco(annotations)
    for number, split in enumerate(division.names):
        rows = np.flatnonzero(division.split_of == number).tolist()
        if not rows:
            continue
        images = [content['images'][row] for row in rows]
        ids = {image['id'] for image in images}
        chosen = [each for each in content['annotations'] if each['image_id'] in ids]
        file = _annotation_file(folder, split)
        write_json(file, content | {'images': images, 'annotations': chosen})


def _annotation_file(folder, split):
    return folder / 'annotations' / f'instances_{split}.json'


def _write_image(content, stem, folder):
    """Writes an image to `images/` in a folder; gives its file name."""
    header = image_header.read(content)
    kind = 'bin' if header is None else header.kind.lower()
    suffix = {'jpeg': 'jpg'}.get(kind, kind)
    name = f'images/{stem}.{suffix}'
    write_bytes(folder / name, content)
    return name
