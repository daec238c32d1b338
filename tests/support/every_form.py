"""One small COCO data set written in every form."""

import io
import json
import pathlib
import shutil
from collections.abc import Callable

from atss_jax.data.annotations import Annotations
from atss_jax.data.coco import annotation_file
from tests.support import forms
from tests.support.hugging_face import rows_of_coco

SPLITS = ('train', 'val')


def _table(source: pathlib.Path, split: str) -> Annotations:
    return annotation_file.read(str(source / f'{split}.json'))


def _copy_images(source, split, folder):
    shutil.copytree(source / split, folder, dirs_exist_ok=True)


def write_coco(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `annotations/instances_SPLIT2017.json` and `SPLIT2017/`."""
    for split in SPLITS:
        file = folder / 'annotations' / f'instances_{split}2017.json'
        forms.write_files(folder, {str(file): (source / f'{split}.json').read_bytes()})
        _copy_images(source, split, folder / f'{split}2017')


def write_roboflow(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `train/` and `valid/` with `_annotations.coco.json` next to images."""
    for split, name in zip(SPLITS, ('train', 'valid'), strict=True):
        _copy_images(source, split, folder / name)
        shutil.copy(source / f'{split}.json', folder / name / '_annotations.coco.json')


def write_yolo(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `data.yaml`, `images/SPLIT/` and `labels/SPLIT/`."""
    for split in SPLITS:
        _copy_images(source, split, folder / 'images' / split)
        forms.write_yolo_labels(_table(source, split), folder / 'labels' / split)
    names = list(_table(source, 'train').categories.values())
    text = f'train: images/train\nval: images/val\nnames: {json.dumps(names)}\n'
    forms.write_files(folder, {'data.yaml': text})


def write_voc(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `Annotations/`, `JPEGImages/` and `ImageSets/Main/SPLIT.txt`."""
    for split in SPLITS:
        table = _table(source, split)
        images = folder / 'JPEGImages'
        names = _unlike_names(source, split, images)
        forms.write_voc_annotations(_renamed(table, names), folder / 'Annotations')
        stems = [pathlib.Path(names[name]).stem for name in table.file_names]
        lists = {f'ImageSets/Main/{split}.txt': '\n'.join(stems) + '\n'}
        forms.write_files(folder, lists)


def _unlike_names(source, split, images):
    """Copies images under names that no other split has."""
    names = {}
    images.mkdir(parents=True, exist_ok=True)
    for image in sorted((source / split).iterdir()):
        names[image.name] = f'{split}_{image.name}'
        shutil.copy(image, images / names[image.name])
    return names


def _renamed(table, names):
    fields = vars(table) | {'file_names': [names[name] for name in table.file_names]}
    return Annotations(**fields)


def write_image_folder(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `SPLIT/metadata.jsonl` next to images, and `classes.txt`."""
    for split in SPLITS:
        _copy_images(source, split, folder / split)
        rows, names = rows_of_coco(source / f'{split}.json')
        lines = '\n'.join(map(json.dumps, rows)) + '\n'
        files = {f'{split}/metadata.jsonl': lines, 'classes.txt': '\n'.join(names)}
        forms.write_files(folder, files)


def write_parquet(source: pathlib.Path, folder: pathlib.Path) -> None:
    """Writes `data/SPLIT-00000-of-00001.parquet` with pyarrow, and `classes.txt`."""
    import pyarrow as arrow
    import pyarrow.parquet

    for split in SPLITS:
        rows, names = rows_of_coco(source / f'{split}.json')
        for row in rows:
            name = row.pop('file_name')
            content = (source / split / name).read_bytes()
            row['image'] = {'bytes': content, 'path': name}
        stream = io.BytesIO()
        arrow.parquet.write_table(arrow.Table.from_pylist(rows), stream)
        file = f'data/{split}-00000-of-00001.parquet'
        files = {file: stream.getvalue(), 'classes.txt': '\n'.join(names)}
        forms.write_files(folder, files)


WRITERS: dict[str, Callable[[pathlib.Path, pathlib.Path], None]] = {
    'COCO': write_coco,
    'Roboflow': write_roboflow,
    'YOLO': write_yolo,
    'Pascal VOC': write_voc,
    'image folder': write_image_folder,
    'Parquet': write_parquet,
}
"""By the name of each form, what writes in it the data of `small_run.write_coco`
(`SPLIT.json` and `SPLIT/`): from one folder to another."""
