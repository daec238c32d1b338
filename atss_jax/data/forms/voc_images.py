"""Which image of a folder belongs to a VOC annotation file."""

import os
import pathlib
import unicodedata
from collections.abc import Iterable

from atss_jax.data.forms import image_files

_FOLDERS = frozenset(('jpegimages', 'images', 'image', 'imgs', 'img'))


class ImagesByStem:
    """The images of a data set, by their names without ending."""

    def __init__(self, folder: str):
        """Lists the images of a folder; only those in `JPEGImages` if there is one."""
        usual = os.path.join(folder, 'JPEGImages')
        inside = 'JPEGImages/' if os.path.isdir(usual) else ''
        self._paths: dict[str, list[str]] = {}
        for name in image_files.files_below(os.path.join(folder, inside)):
            path = f'{inside}{name}'
            self._paths.setdefault(_stem(path), []).append(path)

    def without(self, annotations: Iterable[str]) -> list[str]:
        """The images that have the stem of none of the annotation files, sorted."""
        annotated = set(map(_stem, annotations))
        stems = self._paths.keys() - annotated
        return sorted(path for stem in stems for path in self._paths[stem])

    def of(self, annotation: str, given_name: str) -> list[str]:
        """The image of an annotation file; several if nothing tells them apart.

        Images with the stem of the annotation file are compared: the one of the name
        that the file gives, else the one next to the file, else in a folder of images,
        else in the folder that has most in common with the file's (`images/train` and
        `annotations/train`).

        Args:
            annotation: path of the annotation file, relative to the folder.
            given_name: of the image, as the annotation file gives it.
        """
        folder = pathlib.PurePosixPath(annotation).parent
        near = set(folder.parts)

        def rank(path):
            parent = pathlib.PurePosixPath(path).parent
            parts = set(parent.parts)
            return (
                os.path.basename(path) == given_name,
                parent == folder,
                not _FOLDERS.isdisjoint(part.lower() for part in parts),
                len(parts & near),
            )

        images = self._paths.get(_stem(annotation), [])
        best = max(map(rank, images), default=None)
        return [image for image in images if rank(image) == best]


def _stem(path: str) -> str:
    """Name of a file without folders and ending, accents in one form of Unicode."""
    stem = os.path.splitext(os.path.basename(path))[0]
    return unicodedata.normalize('NFC', stem)
