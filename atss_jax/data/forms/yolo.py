"""YOLO data sets: where their images and labels lie, and what they hold."""

import dataclasses
import itertools
import os
import pathlib
import warnings
from collections.abc import Container, Mapping

import numpy as np

from atss_jax.data import image_file, image_header
from atss_jax.data.annotations import Annotations
from atss_jax.data.coco.table import SKIP, Rule, Table
from atss_jax.data.forms import (
    class_names,
    image_files,
    yolo_config,
    yolo_labels,
    yolo_places,
)
from atss_jax.data.forms.form import Incomplete
from atss_jax.data.forms.image_files import inside
from atss_jax.data.forms.sizes import UNREADABLE, image_sizes
from atss_jax.data.forms.yolo_config import YoloConfig

CLASS_FILES = ('classes.txt', 'obj.names', '_darknet.labels')
"""Files that name the classes of a data set that has no YAML file."""
_LOOKED_AT = 100  # text files that say whether there are label files


@dataclasses.dataclass(frozen=True)
class YoloForm:
    """Images with a label file each; fields as in `Form`.

    Attributes:
        path: the folder or file that the user gave.
        folder: folder that the images' file names are relative to.
        splits: folders of images and lists of image files of each split, relative to
            `folder` if they lie in it, with commas.
        places: paths of the same, one by one.
        source: file that names the classes.
        names: of the classes.
        keypoints: number of values of the keypoints that follow each box.
    """

    path: str
    folder: str
    splits: Mapping[str, str]
    places: Mapping[str, tuple[str, ...]]
    source: str
    names: tuple[str, ...]
    keypoints: int = 0
    name: str = 'YOLO'

    def read(
        self,
        split: str,
        on_error: str = 'raise',
        training: bool = True,
        classes: Container[str] | None = None,
    ) -> Annotations:
        """Reads and checks the label files of a split, as `Form.read` says.

        Images without label file have no objects, as Ultralytics understands it; it is
        an error if no image of a split for training has one.
        """
        class_names.check_unique(self.source, self.names, classes)
        owner = f'{self.source} ({split})'
        listed = self._listed(split)
        images = self._images(owner, listed, on_error)
        labels = [
            (row['image_id'], row['label'], inside(row['label'], self.folder))
            for row in images.rows
            if os.path.isfile(row['label'])
        ]
        if training and images.rows and not labels:
            self._refuse_no_labels(owner, images)
        if all(map(os.path.isdir, self.places[split])):  # lists may name a part
            every = [yolo_labels.label_path(path, self.folder) for path, _ in listed]
            yolo_labels.without_image(owner, every, self.folder, on_error)
        lines = yolo_labels.read_lines(
            owner, labels, len(self.names), self.keypoints, on_error
        )
        return self._annotations(owner, images, lines)

    def image_content(self, path: str) -> bytes:
        """The bytes of an image file."""
        return image_file.file_content(path)

    def _images(self, owner, listed, on_error):
        """The table of the images: image_id, path, label, size."""
        # Of this split alone: another one that changes must not change them.
        paths = dict.fromkeys(path for path, _ in listed)
        ids = {path: number for number, path in enumerate(paths, 1)}
        sizes = image_sizes([path for path, _ in listed], self.folder).tolist()
        rows = [
            {
                'at': at,
                'image_id': ids[path],
                'path': path,
                'label': yolo_labels.label_path(path, self.folder),
                'size': tuple(size),
            }
            for (path, at), size in zip(listed, sizes, strict=True)
        ]
        table = Table(owner, 'images', rows, on_error, SKIP, lambda i: rows[i]['at'])
        paths = table.column('path')
        pairs = enumerate(itertools.pairwise(paths), 1)
        table.leave_out([i for i, (a, b) in pairs if a == b], 'listed more than once')
        unreadable = {row['path'] for row in rows if row['size'] == UNREADABLE}
        kinds = f'an image that can be read ({image_header.KINDS})'
        table.require('path', Rule(kinds, lambda path: path not in unreadable))
        table.require_unique(
            'label',
            alike=('path',),
            among=set(filter(os.path.isfile, table.column('label'))),
            advice=', an image with the same name up to its ending; rename one of them',
        )
        return table

    def _listed(self, split):
        """Path of each image of a split, sorted, and where it is named.

        Raises:
            ValueError: a folder or list does not exist, or there is no image.
        """
        listed = []
        for place in self.places[split]:
            if not os.path.exists(place):
                raise ValueError(
                    f'{self.source}: {split} is {place}, but there is no such folder '
                    'or list of images'
                )
            listed += yolo_places.images(place, self.folder)
        if not listed:
            suffixes = ', '.join(sorted(image_files.SUFFIXES))
            raise ValueError(
                f'{self.source}: {split} is {self.splits[split]}, but there are no '
                f'images ({suffixes})'
            )
        return sorted(listed)

    def _refuse_no_labels(self, owner, images):
        first = images.rows[0]
        label = inside(first['label'], self.folder)
        raise ValueError(
            f'{owner}: none of the {len(images.rows)} images has a label file; that of '
            f'{first["at"]} would be {label}. Label files lie next to the images, or '
            'in labels/ where the images lie in images/'
        )

    def _annotations(self, owner, images, lines):
        sizes = np.array(images.column('size'), np.int64).reshape(-1, 2)
        image_ids = np.array(images.column('image_id'), np.int64)
        annotated = np.array(lines.column('image_id'), np.int64)
        fractions = np.array(lines.column('box'), np.float64).reshape(-1, 4)
        rows = np.searchsorted(image_ids, annotated)  # ids ascend, as the paths do
        boxes = fractions * np.tile(sizes[rows, ::-1], 2)
        count = len(boxes)
        return Annotations(
            path=owner,
            image_ids=image_ids,
            file_names=[inside(path, self.folder) for path in images.column('path')],
            image_sizes=sizes,
            annotation_ids=np.arange(1, count + 1),
            annotation_images=annotated,
            annotation_categories=np.array(lines.column('class'), np.int64) + 1,
            boxes=boxes,
            areas=boxes[:, 2] * boxes[:, 3],
            crowds=np.zeros(count, bool),
            dropped=np.zeros(count, bool),
            categories=dict(enumerate(self.names, 1)),
        )


def find(path: str) -> YoloForm | None:
    """The YOLO data set at a path; None if there is none.

    It may be a YAML file or a folder with one. A folder without it needs another file
    that names the classes (`CLASS_FILES`); its splits are then found by the names of
    folders or lists of images.

    Raises:
        Incomplete: label files lie there, but no file names the classes.
        ValueError: the YAML file is malformed, or there are several.
    """
    file = yolo_config.find_file(pathlib.Path(path))
    if file is None:
        return _without_yaml(path) if os.path.isdir(path) else None
    config = yolo_config.read(file)
    folder = str(file.parent)
    places = _existing(file, config.places)
    if not places:
        places = yolo_places.usual(folder)
        yolo_places.check_unambiguous(folder, places)
    if not places:
        raise Incomplete(f'{file}: found none of train, val and test, and no images')
    return _form(path, folder, places, str(file), config)


def _existing(file, places):
    """The splits of a YAML file without those of which nothing is there.

    Exports name a test folder whether there is one or not. If nothing is there of any
    split, the file is wrong, and reading says so.
    """
    missing = {
        split: each
        for split, each in places.items()
        if not any(os.path.exists(place) for place in each)
    }
    if len(missing) == len(places):
        return places
    for split, each in missing.items():
        warnings.warn(
            f'{file}: {split} is {", ".join(inside(x, str(file.parent)) for x in each)}'
            f', which is not there; the data set is used without {split}',
            stacklevel=3,
        )
    return {split: each for split, each in places.items() if split not in missing}


def _without_yaml(folder: str) -> YoloForm | None:
    places = yolo_places.usual(folder)
    every = [place for split in places.values() for place in split]
    labels = [yolo_places.some_label(place, folder) for place in every]
    label_folders = [os.path.dirname(label) for label in labels if label]
    if not label_folders:
        if not places:
            _refuse_no_images(folder)
        return None
    others = [os.path.join(folder, name) for name in ('labels', 'data')]
    # Also next to the folders `labels` of the splits: some programs export each alone.
    above = [os.path.dirname(place) for place in label_folders if place != folder]
    source = class_names.find_file(
        [folder, *others, *label_folders, *above], CLASS_FILES
    )
    if source is None:
        raise Incomplete(
            f'{folder}: there are label files as those of YOLO in '
            f'{inside(label_folders[0], folder)}, but no file that names the '
            'classes. Write data.yaml with the line names: [NAME, ...], in the order '
            f'of their numbers; or {CLASS_FILES[0]} with a name in each line'
        )
    yolo_places.check_unambiguous(folder, places)
    config = YoloConfig(class_names.read_file(source), 0, {})
    return _form(folder, folder, places, source, config)


def _refuse_no_images(folder):
    """Raises Incomplete if label files lie in a folder that has no images."""
    texts = image_files.files_below(folder, ('.txt',))[:_LOOKED_AT]
    labels = [
        name for name in texts if yolo_labels.is_label_file(os.path.join(folder, name))
    ]
    if labels:
        raise Incomplete(
            f'{folder}: there are label files as those of YOLO, such as {labels[0]}, '
            'but no images. Export again with the images (in Label Studio YOLO with '
            'Images, in CVAT with Save images on), or put them into images/ next to '
            'labels/, or next to the label files, each with the name of its label file'
        )


def _form(path, folder, places, source, config):
    splits = {
        split: ', '.join(inside(place, folder) for place in each)
        for split, each in places.items()
    }
    return YoloForm(
        path, folder, splits, places, source, config.names, config.keypoints
    )
