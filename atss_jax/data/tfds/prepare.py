"""Converts a data set of any form to one of TensorFlow Datasets.

Records are those of `coco/2017`, with exact numbers in addition to the rounded ones.
Any program can read them: `tfds.builder_from_directory(DIR).as_data_source('train')`.
"""

import contextlib
import dataclasses
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import tqdm

from atss_jax.data import image_file, missing_image
from atss_jax.data.annotations import Annotations
from atss_jax.data.coco import annotation_file
from atss_jax.data.coco.dataset import check_paths
from atss_jax.data.forms import arrow_files
from atss_jax.data.forms.dataset import check_split
from atss_jax.data.forms.find import find
from atss_jax.data.forms.form import ALL, split_name
from atss_jax.data.forms.to_coco import image_paths
from atss_jax.data.tfds.index import (
    fingerprint,
    index_name,
    is_prepared_by_us,
    read_index,
    save,
)
from atss_jax.data.tfds.storage import (
    check_name,
    folder_of,
    is_local,
    library,
    open_builder,
    parse_name,
    record_errors,
)
from atss_jax.files.lock import locked

SHARD_BYTES = 256 << 20
_DESCRIPTION = (
    'Images and boxes of a COCO annotation file, prepared by atss-jax. Features as '
    'in coco/2017; in addition, exactly as annotated: image/height, image/width, '
    'objects/bbox_exact (x, y, width, height in pixels), objects/area_exact, '
    'objects/category_id, objects/ignore.'
)


@dataclasses.dataclass(frozen=True)
class Images:
    """The annotations of a data set, and where its images are.

    Attributes:
        annotations: of all images.
        paths: path of each image.
        content: gives the bytes of an image by its path.
    """

    annotations: Annotations
    paths: Sequence[str]
    content: Callable[[str], bytes] = image_file.file_content

    def byte_count(self) -> int:
        """Number of bytes of all images."""
        return sum(
            os.path.getsize(path) if os.path.isfile(path) else len(self.content(path))
            for path in self.paths
        )


@dataclasses.dataclass(frozen=True)
class Target:
    """A split of a data set of TensorFlow Datasets, to be written.

    Attributes:
        data_dir: local folder of prepared data sets.
        name: dataset/config:version.
        split: name of the split: 'train', 'validation' or another word.
        shard_bytes: images go to as many files as it takes to keep each below this.
    """

    data_dir: str
    name: str
    split: str
    shard_bytes: int = SHARD_BYTES

    def folder(self) -> pathlib.Path:
        """The folder of the data set."""
        return _local_folder(self.data_dir, self.name)

    def check(self) -> None:
        """Raises ValueError if a name is malformed, or the folder is not local."""
        self.folder()
        check_name('split', self.split)


def prepare(
    ann_file: str,
    img_prefix: str,
    data_dir: str,
    name: str,
    split: str,
    on_error: str = 'raise',
    shard_bytes: int = SHARD_BYTES,
) -> pathlib.Path:
    """Writes one split of a data set; other splits, if any, stay as they are.

    Records are in the order of the annotation file. The files of images are copied
    byte for byte and not decoded. No reader sees the split until all of it is written.

    Args:
        ann_file: the COCO file.
        img_prefix: folder that its `file_name`s are relative to.
        data_dir: local folder of prepared data sets.
        name: dataset/config:version.
        split: name of the split: 'train', 'validation' or another word.
        on_error: 'raise' or 'skip' malformed records: see `annotation_file.read`.
        shard_bytes: images go to as many files as it takes to keep each below this.

    Returns:
        The folder of the data set.

    Raises:
        FileNotFoundError: annotation file or images are missing.
        ValueError: the file or a name is malformed, the split exists, or other splits
            have other categories; TensorFlow Datasets is not installed.
        OSError: another process prepares this set, or files cannot be written.
    """
    target = Target(data_dir, name, split, shard_bytes)
    target.check()
    check_paths(ann_file, img_prefix)
    file = annotation_file.read(ann_file, on_error, False, img_prefix)
    paths = [image_file.locate(img_prefix, name) for name in file.file_names]
    _check_images(paths, file, img_prefix)
    return _write_split(Images(file, paths), target)


def prepare_form(
    path: str, data_split: str | None, target: Target, on_error: str = 'raise'
) -> pathlib.Path:
    """Writes one split of a data set of any form, as `prepare` does.

    Args:
        path: folder, annotation file or address of the data set.
        data_split: the split that is read; None: the one of the name that is written,
            `val` for 'validation', or the only one of a data set without splits.
        target: the split that is written.
        on_error: 'raise' or 'skip' malformed records: see `Form.read`.

    Returns:
        The folder of the data set.

    Raises:
        FileNotFoundError, ValueError, OSError: as `prepare`.
    """
    target.check()
    form = find(path)
    if data_split is None:
        name = target.split
        data_split = ALL if ALL in form.splits else split_name(name) or name
    check_split(form, data_split, '--data_split={}')
    file = form.read(data_split, on_error, training=False)
    paths = image_paths(form, file)
    _check_images(paths, file, form.folder)
    return _write_split(Images(file, paths, form.image_content), target)


def _write_split(images: Images, target: Target) -> pathlib.Path:
    file, split, name = images.annotations, target.split, target.name
    _check_categories(file)
    folder = target.folder()
    with locked(folder.with_name(f'.{folder.name}.lock'), wait=False):
        splits = _other_splits(target.data_dir, name, split, file)
        shards = -(-images.byte_count() // target.shard_bytes)
        shards = max(1, min(shards, len(images.paths)))
        with _staging(folder) as staging:
            prefix = staging / f'{parse_name(name)[0]}-{split}'
            lengths, total = _write_shards(prefix, images, shards)
            splits.append(library().core.SplitInfo(split, lengths, total))
            info = _describe(staging, name, features(file), splits)
            save(staging / index_name(split), file, fingerprint(info, split))
            _publish(staging, folder, split)
    return folder


# Checks ------------------------------------------------------------------------------


def _local_folder(data_dir: str, name: str) -> pathlib.Path:
    folder = folder_of(data_dir, name)
    if not is_local(folder):
        raise ValueError(
            f'--data_dir {data_dir}: expected a local folder; prepare there, then copy '
            'it to the bucket (docs/data.md has the command)'
        )
    return pathlib.Path(folder)


def _check_images(paths: Sequence[str], file: Annotations, folder: str) -> None:
    """Checks that there are images, and the files in which they are."""
    if not paths:
        raise ValueError(f'{file.path}: has no images')
    missing = [
        row
        for row, path in enumerate(paths)
        if not os.path.isfile(path) and not os.path.isfile(arrow_files.file_of(path))
    ]
    if missing:
        first = missing[0]
        raise FileNotFoundError(
            f'{paths[first]}: no such file (image id {file.image_ids[first]}, '
            f'{file.path}); {len(missing)} of {len(paths)} images are missing'
            + missing_image.explain(paths[first], folder)
        )


def _check_categories(file: Annotations) -> None:
    """Names of categories are stored in a text file, one per line and stripped."""
    for id_, name in file.categories.items():
        if name != name.strip() or len(name.splitlines()) != 1:
            raise ValueError(
                f'{file.path}: category id {id_}: name {name!r} begins or ends with '
                'a space or has several lines, which TensorFlow Datasets cannot store'
            )
    if not file.categories:
        raise ValueError(f'{file.path}: has no categories')


def _other_splits(data_dir: str, name: str, split: str, file: Annotations) -> list[Any]:
    """`SplitInfo` of each existing split; checks that they match `file`."""
    folder = folder_of(data_dir, name)
    if not (folder / 'dataset_info.json').exists():
        return []
    builder = open_builder(data_dir, name)
    if split in builder.info.splits:
        raise ValueError(
            f'{folder}: split {split!r} is prepared already; choose another --name or '
            'version, or delete this folder first'
        )
    for other in builder.info.splits if is_prepared_by_us(builder) else ():
        categories = read_index(builder, other).categories
        if list(categories.items()) != list(file.categories.items()):
            raise ValueError(
                f'{file.path}: categories {file.categories}, but split {other!r} of '
                f'{folder} has {categories}; they must be the same in the same order'
            )
    if builder.info.features.to_json() != features(file).to_json():
        raise ValueError(
            f'{folder}: holds a data set with other features; choose another --name'
        )
    return list(builder.info.splits.values())


# Writing -----------------------------------------------------------------------------


@contextlib.contextmanager
def _staging(folder: pathlib.Path) -> Iterator[pathlib.Path]:
    """An empty folder to write to, next to `folder`; it is removed in the end."""
    staging = folder.with_name(f'{folder.name}.incomplete')
    shutil.rmtree(staging, ignore_errors=True)  # of a call that was killed
    staging.mkdir()
    try:
        yield staging
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_shards(
    prefix: pathlib.Path, images: Images, count: int
) -> tuple[list[int], int]:
    """Writes all records to `count` files.

    Returns:
        The number of records in each file, and the number of bytes of all records.
    """
    schema, image_count = features(images.annotations), len(images.paths)
    records = (schema.serialize_example(example) for example in examples(images))
    bounds = np.linspace(0, image_count, count + 1).round().astype(int)
    lengths, total = np.diff(bounds).tolist(), 0
    title = f'prepare {prefix.name}'
    with tqdm.tqdm(total=image_count, desc=title, unit='images', disable=None) as bar:
        for shard, length in enumerate(lengths):
            name = f'{prefix.name}.array_record-{shard:05d}-of-{count:05d}'
            part = itertools.islice(records, length)
            total += _write_shard(prefix.with_name(name), part, bar)
    return lengths, total


def _write_shard(path: pathlib.Path, records: Iterable[bytes], bar: tqdm.tqdm) -> int:
    """Writes records to one file; returns their number of bytes."""
    from array_record.python.array_record_module import ArrayRecordWriter

    total = 0
    with record_errors(str(path)):
        # Images are compressed already.
        writer = ArrayRecordWriter(str(path), 'group_size:1,uncompressed')
        for record in records:
            writer.write(record)
            total += len(record)
            bar.update()
        writer.close()
    return total


def _describe(staging, name, schema, splits):
    """Writes TensorFlow Datasets' description of how to read the records."""
    tfds = library()
    dataset, config, version = parse_name(name)
    identity = tfds.core.DatasetIdentity(
        name=dataset,
        version=tfds.core.Version(version),
        data_dir=str(staging),
        module_name='',
        config_name=config or None,
    )
    info = tfds.core.DatasetInfo(
        builder=identity,
        description=_DESCRIPTION,
        features=schema,
        disable_shuffling=True,
    )
    info.set_file_format('array_record')
    info.set_splits(tfds.core.SplitDict(splits))
    info.write_to_directory(staging)
    return info


def _publish(staging: pathlib.Path, folder: pathlib.Path, split: str) -> None:
    """Moves the files to where they are read, `dataset_info.json` last.

    Only that file tells readers of the split.
    """
    if not folder.exists():
        os.rename(staging, folder)
        return
    for remnant in folder.glob(f'*-{split}.*'):  # of a call that was killed here
        remnant.unlink()
    names = sorted(path.name for path in staging.iterdir())
    names.remove('dataset_info.json')
    for name in [*names, 'dataset_info.json']:
        os.replace(staging / name, folder / name)


# Records ------------------------------------------------------------------------------


def features(file: Annotations) -> Any:
    """The `tfds.features.FeaturesDict` of a record."""
    tfds = library()
    number = tfds.features.Tensor(shape=(), dtype=np.float64, encoding='bytes')
    box = tfds.features.Tensor(shape=(4,), dtype=np.float64, encoding='bytes')
    return tfds.features.FeaturesDict(
        {
            # As in coco/2017. The encoding is for arrays; bytes are stored unchanged.
            'image': tfds.features.Image(encoding_format='jpeg'),
            'image/filename': tfds.features.Text(),
            'image/id': np.int64,
            'image/height': np.int64,
            'image/width': np.int64,
            'objects': tfds.features.Sequence(
                {
                    'area': np.int64,
                    'bbox': tfds.features.BBoxFeature(),
                    'id': np.int64,
                    'is_crowd': np.bool_,
                    'label': tfds.features.ClassLabel(
                        names=list(file.categories.values())
                    ),
                    # Ours; as bytes, since records hold no floats except float32.
                    'area_exact': number,
                    'bbox_exact': box,
                    'category_id': np.int64,
                    'ignore': np.bool_,
                }
            ),
        }
    )


def examples(images: Images) -> Iterator[dict[str, Any]]:
    """The record of each image, in the order of the file."""
    file, paths = images.annotations, images.paths
    row_of = {id_: row for row, id_ in enumerate(file.image_ids.tolist())}
    rows = np.array([row_of[id_] for id_ in file.annotation_images.tolist()], np.int64)
    order = np.argsort(rows, kind='stable')
    ends = np.cumsum(np.bincount(rows, minlength=len(paths)))
    starts = np.concatenate([[0], ends[:-1]])
    labels = {id_: label for label, id_ in enumerate(file.categories)}
    for row, path in enumerate(paths):
        height, width = file.image_sizes[row].tolist()
        objects = order[starts[row] : ends[row]]
        yield {
            'image': images.content(path),
            'image/filename': file.file_names[row],
            'image/id': int(file.image_ids[row]),
            'image/height': height,
            'image/width': width,
            'objects': [_object(file, k, labels, (height, width)) for k in objects],
        }


def _object(
    file: Annotations, k: int, labels: dict[int, int], size: tuple[int, int]
) -> dict[str, Any]:
    x, y, width, height = file.boxes[k].tolist()
    category_id = int(file.annotation_categories[k])
    return {
        'area': int(file.areas[k]),
        'bbox': _relative_box(x, y, x + width, y + height, size),
        'id': int(file.annotation_ids[k]),
        'is_crowd': bool(file.crowds[k]),
        'label': labels[category_id],
        'area_exact': np.float64(file.areas[k]),
        'bbox_exact': file.boxes[k],
        'category_id': category_id,
        'ignore': bool(file.dropped[k]),
    }


def _relative_box(x1, y1, x2, y2, size):
    """(4,) ymin, xmin, ymax, xmax within 0..1, as TensorFlow Datasets requires."""
    corners = np.array([y1, x1, y2, x2]) / np.tile(size, 2)
    corners = np.clip(corners, 0.0, 1.0)
    corners[2:] = np.maximum(corners[:2], corners[2:])
    return corners
