"""What the readers of all forms of data sets have in common."""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Protocol

from atss_jax.data.annotations import Annotations

ALL = 'all'
"""The split of a data set that is not divided into splits."""

_SPLITS = {
    'train': ('train', 'training'),
    'val': ('val', 'valid', 'validation', 'dev', 'eval'),
    'test': ('test', 'testing'),
}


class Incomplete(ValueError):
    """A data set of a form lies at a path, but something that it needs does not.

    If a data set of another form lies there, that is the one.
    """


class Form(Protocol):
    """A data set of one form, found but not yet read.

    It is sent to worker processes, so it must be possible to pickle it.

    Attributes:
        name: of the form, such as 'COCO'.
        path: the folder, file or address that the user gave.
        folder: folder that the images' file names are relative to.
        splits: by the name of each split ('train', 'val', 'test', others as they are
            called there, or `ALL` alone), where it was found, for messages.
    """

    name: str
    path: str
    folder: str
    splits: Mapping[str, str]

    def read(
        self,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: Container[str] | None = None,
    ) -> Annotations:
        """Reads and checks the annotations of a split.

        Args:
            split: one of `splits`.
            on_error: 'raise' an error about the first malformed record, or 'skip':
                malformed ones are left out, and a warning counts them.
            training: whether images without annotation files are wrong as the form
                understands it; elsewhere they are images without objects.
            classes: names that must be unique; None: all.

        Raises:
            ValueError: a file is malformed; the message names the file and the line.
            OSError: a file cannot be read.
        """

    def image_content(self, path: str) -> bytes:
        """The bytes of an image file, encoded as it is stored.

        Args:
            path: `folder` joined with one of the file names that `read` gave.

        Raises:
            OSError: it cannot be read.
        """


def split_name(name: str) -> str | None:
    """'train', 'val' or 'test' if a file or folder name contains a word for it.

    `instances_val2017`, `valid` and `my-validation-set` are all 'val', and `test-dev`
    is 'test'. A name with words for several splits, such as `train_val`, is that of
    none.
    """
    words = re.findall('[a-z]+', name.lower())
    if 'test' in words:
        words = [word for word in words if word != 'dev']
    named = {
        split
        for split, synonyms in _SPLITS.items()
        if not set(synonyms).isdisjoint(words)
    }
    return named.pop() if len(named) == 1 else None


def split_of_folders(names: Sequence[str]) -> str | None:
    """The split that the folders of a path name, the innermost of them first.

    A folder whose whole name is that of a split comes before names that contain it.

    Args:
        names: of the folders, from the outermost.
    """
    inwards = [name.lower() for name in reversed(names)]
    exact = [name for name in inwards if any(name in x for x in _SPLITS.values())]
    return next(filter(None, map(split_name, [*exact, *inwards])), None)


def in_order(splits: Mapping[str, str]) -> dict[str, str]:
    """The splits as people list them: train, val, test, then others by name."""
    order = {name: place for place, name in enumerate(_SPLITS)}
    names = sorted(splits, key=lambda name: (order.get(name, len(order)), name))
    return {name: splits[name] for name in names}
