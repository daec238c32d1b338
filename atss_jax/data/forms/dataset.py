"""Data sets of any form, `type='auto'` in a config."""

from collections.abc import Iterable

import numpy as np

from atss_jax.data import record_image
from atss_jax.data.division.advice import (
    lacking_splits,
    split_command,
    way_to_divide,
)
from atss_jax.data.forms.find import describe, whole_of
from atss_jax.data.forms.finder import Finder
from atss_jax.data.forms.form import ALL, Form
from atss_jax.data.joined import JoinedDataset
from atss_jax.data.records import Record, Source
from atss_jax.data.selection import ImageFilter, select


class AutoDataset:
    """A data set whose form is found out from what lies at a path.

    Annotations and images are selected as by `CocoDataset`.

    Attributes:
        form: the data set as it was found.
        classes: name of each label.
        category_ids: category id of each label, as in `ground_truth`.
        records: the images that remain after filtering.
        untrained: number of annotations that training does not learn, by reason.
    """

    def __init__(
        self,
        path: str,
        split: str,
        classes: tuple[str, ...] | None = None,
        filter_empty_gt: bool = True,
        min_size: int = 32,
        test_mode: bool = False,
        indices: int | None = None,
        on_error: str = 'raise',
        finder: Finder | None = None,
    ):
        """Reads the annotations, and no images yet.

        Args:
            path: folder, annotation file or `hf://` address of the data set.
            split: 'train', 'val', 'test' or another one that is there; 'all' if the
                data set is not divided.
            classes: names to detect; None: all of the data set's, in its order.
            filter_empty_gt: whether to drop images without any annotation of a wanted
                category.
            min_size: drop images whose shorter side is below this.
            test_mode: keep every image, whatever the two above say.
            indices: number of images to use, the first of those that remain; None: all.
            on_error: 'raise' an error about the first malformed record, or 'skip':
                malformed ones are left out, and a warning counts them.
            finder: may have found or read the data set already.

        Raises:
            FileNotFoundError: there is nothing at `path`.
            ValueError: no known form lies there, it has no such split, it is malformed
                or lacks a class, or no image remains.
        """
        finder = Finder() if finder is None else finder
        self.form = finder.find(path)
        check_split(self.form, split)
        names = None if classes is None else tuple(classes)  # a list has no hash
        self._annotations = finder.read(path, split, on_error, not test_mode, names)
        images = ImageFilter(filter_empty_gt, min_size, test_mode, indices)
        self.classes, self.category_ids, self.records, self.untrained = select(
            self._annotations, self.form.folder, classes, images
        )

    def read_image(
        self, record: Record, shown: tuple[int, int] | None = None
    ) -> np.ndarray:
        """(H,W,3) uint8 RGB of `record.size`, turned as its EXIF orientation says.

        Args:
            record: whose image to read.
            shown: as of `Source.read_image`.

        Raises:
            OSError: the file is missing or cannot be read.
            BadImage: it is not an image, is cut off, or is not of this size.
        """
        owner, folder = self._annotations.path, self.form.folder
        content = self.form.image_content
        return record_image.read(record, owner, folder, content, shown)

    def ground_truth(self) -> dict:
        """All annotations of the split as a COCO dict; nothing is filtered."""
        return self._annotations.as_dict()


def open_all(path: str, split: str | None, usual: str) -> AutoDataset:
    """Opens every image of a split, to draw or to score.

    Args:
        path: folder, annotation file or address of the data set.
        split: of it; None: the usual one, or all of a data set that is not divided.
        usual: 'train', 'val' or 'test'.

    Raises:
        FileNotFoundError, ValueError: as `AutoDataset`.
    """
    finder = Finder()
    if split is None:
        split = ALL if ALL in finder.find(path).splits else usual
    return AutoDataset(path, split, test_mode=True, finder=finder)


def describe_forms(sources: Iterable[Source]) -> list[str]:
    """A line about each data set whose form was found out, also of joined ones."""
    lines = []
    for source in sources:
        if isinstance(source, AutoDataset):
            lines.append(describe(source.form))
        elif isinstance(source, JoinedDataset):
            lines += describe_forms(member.source for member in source.members)
    return list(dict.fromkeys(lines))


FIELD = 'split = {!r}'
FLAG = '--split={}'
"""How a split is chosen in a config, and on the command line."""


def check_split(form: Form, split: str, choice: str = FIELD) -> None:
    """Raises ValueError if a data set has no such split.

    Args:
        form: the data set.
        split: name of the split.
        choice: how it was chosen, `FIELD` or `FLAG`; '': it is needed, and the user
            could choose no other.
    """
    if split in form.splits:
        return
    wanted = choice.format(split) if choice else f'the split {split} is needed'
    wholes = [whole for whole in whole_of(form) if split in whole.splits]
    if wholes:
        raise ValueError(
            f'{wanted}, but {form.path} ({form.name}) is only a part of '
            f'{describe(wholes[0])}. Give {wholes[0].path} instead'
        )
    if ALL in form.splits:
        all_of_it = f'. To use all of it here: {choice.format(ALL)}' if choice else ''
        raise ValueError(
            f'{wanted}, but {form.path} ({form.name}) is not divided into '
            f'splits{all_of_it}. To divide it: {split_command(form.path, form)}'
        )
    advice = ''
    if split in lacking_splits(form):
        advice = f'. {way_to_divide(form)}: {split_command(form.path, form)}'
    raise ValueError(
        f'{wanted}, but {form.path} ({form.name}) has only '
        f'{", ".join(form.splits)}{advice}'
    )
