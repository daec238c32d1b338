"""COCO data sets written in other forms."""

import pathlib
from typing import Any
from xml.sax.saxutils import escape

import numpy as np
from hypothesis import strategies as st

from atss_jax.data.annotations import Annotations
from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.forms.find import find
from tests.support.image_files import RGB, png


def objects_by_image(table: Annotations) -> dict[int, list[tuple[int, list, bool]]]:
    """Category id, box (x, y, width, height) and crowd of the objects of each image."""
    objects = {image_id: [] for image_id in table.image_ids.tolist()}
    columns = (
        table.annotation_images.tolist(),
        table.annotation_categories.tolist(),
        table.boxes.tolist(),
        table.crowds.tolist(),
    )
    for image_id, category, box, crowd in zip(*columns, strict=True):
        objects[image_id].append((category, box, crowd))
    return objects


def yolo_line(index: int, box: list[float], size: tuple[int, int]) -> str:
    """A box in pixels as a line of a label file, with all digits."""
    x, y, width, height = box
    image_height, image_width = size
    values = (
        (x + width / 2) / image_width,
        (y + height / 2) / image_height,
        width / image_width,
        height / image_height,
    )
    return f'{index} ' + ' '.join(map(repr, values))


def write_yolo_labels(table: Annotations, folder: pathlib.Path) -> None:
    """Writes a label file for each image with objects, named as the image."""
    indices = {id_: index for index, id_ in enumerate(table.categories)}
    objects = objects_by_image(table)
    folder.mkdir(parents=True, exist_ok=True)
    images = (table.image_ids.tolist(), table.file_names, table.image_sizes.tolist())
    for image_id, name, size in zip(*images, strict=True):
        lines = [yolo_line(indices[k], box, size) for k, box, _ in objects[image_id]]
        if lines:
            file = folder / f'{pathlib.Path(name).stem}.txt'
            file.write_text('\n'.join(lines) + '\n')


CORNERS = ('xmin', 'ymin', 'xmax', 'ymax')


def voc_object(name: str, box: list[float], difficult: bool = False) -> str:
    """A box in pixels as an object of a VOC file: pixels counted from 1, all of it."""
    x, y, width, height = box
    values = (x + 1, y + 1, x + width, y + height)
    corners = ''.join(
        f'<{key}>{value:.15g}</{key}>'
        for key, value in zip(CORNERS, values, strict=True)
    )
    return (
        f'<object><name>{escape(name)}</name><truncated>0</truncated>'
        f'<difficult>{int(difficult)}</difficult><bndbox>{corners}</bndbox></object>'
    )


def voc_file(name: str, size: tuple[int, int] | None, objects: list[str]) -> str:
    """A VOC file of an image; without its size if that is None."""
    text = ''
    if size is not None:
        height, width = size
        text = f'<size><width>{width}</width><height>{height}</height></size>'
    lines = [f'<filename>{escape(name)}</filename>{text}', *objects]
    return '<annotation>\n' + '\n'.join(lines) + '\n</annotation>\n'


def write_voc_annotations(table: Annotations, folder: pathlib.Path) -> None:
    """Writes a VOC file for each image, named as the image."""
    objects = objects_by_image(table)
    folder.mkdir(parents=True, exist_ok=True)
    images = (table.image_ids.tolist(), table.file_names, table.image_sizes.tolist())
    for image_id, name, size in zip(*images, strict=True):
        texts = [
            voc_object(table.categories[k], box, crowd)
            for k, box, crowd in objects[image_id]
        ]
        file = folder / f'{pathlib.Path(name).stem}.xml'
        file.write_text(voc_file(name, size, texts))


def records(table: Annotations) -> list[tuple]:
    """File name, size, class and crowd of each object, boxes; for each image."""
    objects = objects_by_image(table)
    images = (table.image_ids.tolist(), table.file_names, table.image_sizes.tolist())
    return [
        (
            pathlib.PurePath(name).name,
            tuple(size),
            [(table.categories[k], crowd) for k, _, crowd in objects[image_id]],
            np.array([box for _, box, _ in objects[image_id]]).reshape(-1, 4),
        )
        for image_id, name, size in zip(*images, strict=True)
    ]


def assert_same_records(records: list, expected: list, atol: float) -> None:
    """Checks that what `records` gave is equal, boxes within `atol` pixels."""
    assert len(records) == len(expected)
    for (*texts, boxes), (*others, other_boxes) in zip(records, expected, strict=True):
        assert texts == others
        np.testing.assert_allclose(boxes, other_boxes, rtol=0, atol=atol)


IMAGE = png((50, 80), 8, RGB, b'\x64\x32\x0a')
"""A file of 80x50 pixels."""


def write_files(folder: pathlib.Path, files: dict[str, str | bytes | None]) -> None:
    """Writes files by their paths in a folder; None is a file that is not written."""
    for name, content in files.items():
        if content is None:
            continue
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())


def read(folder: pathlib.Path, split: str = 'train', **kwargs: Any) -> Annotations:
    """The annotations of a split, whatever their form."""
    return find(str(folder)).read(split, **kwargs)


def boxes_of(folder: pathlib.Path, on_error: str) -> np.ndarray:
    """(M,4) the boxes of the split `train`, as a data set for training has them."""
    source = AutoDataset(str(folder), 'train', filter_empty_gt=False, on_error=on_error)
    rows = source.ground_truth()['annotations']
    return np.array([row['bbox'] for row in rows]).reshape(-1, 4)


def damaged(content: bytes) -> st.SearchStrategy[bytes]:
    """The content with some bytes in one place replaced by others."""
    places = st.integers(0, len(content)), st.integers(0, 12)
    others = st.binary(max_size=6) | st.sampled_from(
        [b'-', b'nan', b'1e999', b'\n', b' ', b'[', b'&a;', b'<', b'9' * 5000]
    )
    return st.builds(
        lambda start, length, new: content[:start] + new + content[start + length :],
        *places,
        others,
    )


def link_images(table: Annotations, source: pathlib.Path, folder: pathlib.Path) -> None:
    """Links to the images of a data set in another folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in table.file_names:
        (folder / name).symlink_to(source / name)
