"""Finds data sets and reads their splits once, for several users of them."""

import dataclasses
import os

from atss_jax.data.annotations import Annotations
from atss_jax.data.forms.find import find
from atss_jax.data.forms.form import Form


def plain_path(path: str) -> str:
    """One spelling of a path: `folder` for `folder/` and `./folder`."""
    return path if '://' in path else os.path.normpath(path)


class Finder:
    """Remembers what it has found and read, until `forget`.

    A data set is used several times before training starts: to choose a config, to
    count its classes, and as training and as evaluation data. To find it means to walk
    through a folder, and in some forms a split is understood only with the annotation
    files of the others.

    A change on the disk is not noticed, so a finder must not live longer than the
    opening of the data of one run.
    """

    def __init__(self):
        self._forms: dict[str, Form] = {}
        self._readers: dict[str, Form] = {}
        self._tables: dict[tuple, Annotations] = {}

    def find(self, path: str) -> Form:
        """The data set at a path, as `find` says; its other spellings are the same."""
        place = plain_path(path)
        if place not in self._forms:
            form = self._forms[place] = self._readers[place] = find(path)
            if hasattr(form, 'parsed'):
                self._readers[place] = dataclasses.replace(form, parsed={})
        return self._forms[place]

    def read(
        self,
        path: str,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: tuple[str, ...] | None = None,
    ) -> Annotations:
        """The annotations of a split, as `Form.read` says; not to be changed."""
        self.find(path)
        place = plain_path(path)
        key = place, split, on_error, training, classes
        if key not in self._tables:
            reader = self._readers[place]
            self._tables[key] = reader.read(split, on_error, training, classes)
        return self._tables[key]

    def forget(self) -> None:
        """Frees the memory, of which the parsed files need most."""
        self._forms.clear()
        self._readers.clear()
        self._tables.clear()
