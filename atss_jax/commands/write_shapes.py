"""Generated images as files, a small data set in COCO form: `write-shapes`."""

import json
import pathlib

import cv2

from atss_jax.config import build_experiment
from atss_jax.data.shapes.dataset import ShapesDataset

_SPLITS = ('train', 'val')


def write_shapes(config, out: str) -> list[str]:
    """Writes `out/train.json`, its images `out/train/*.png`, and the same for val.

    Read as a `CocoDataset`, they have the boxes, labels, ids and pixels that the config
    generates. A JSON file is written after its images: where it is, all of them are.

    Args:
        config: a loaded config, whose data.train and data.val are generated.
        out: folder, made if it is not there.

    Returns:
        A line on each split.

    Raises:
        ValueError: the data of the config is not generated, or there is some in `out`.
        OSError: an image cannot be written.
    """
    data = build_experiment(config).data
    for split in _SPLITS:
        if data[split].source is not ShapesDataset:
            kind = data[split].source.__name__
            raise ValueError(
                f"data.{split}.type = '{kind}': only what 'ShapesDataset' generates is "
                'written; such is the data of configs/atss_shapes.py'
            )
        for path in _paths(out, split):
            if path.exists():
                raise ValueError(f'{path} is there already; give another --out')
    return [_write(data[split].open(), *_paths(out, split)) for split in _SPLITS]


def _paths(out, split):
    """The annotation file and the folder of its images."""
    return pathlib.Path(out, f'{split}.json'), pathlib.Path(out, split)


def _write(source, file, folder):
    folder.mkdir(parents=True)
    truth = source.ground_truth()
    for index, image in enumerate(truth['images']):
        pixels = source.read_image(source.records[index])
        path = folder / image['file_name']
        if not cv2.imwrite(str(path), pixels[..., ::-1]):
            raise OSError(f'{path} could not be written')
    file.write_text(json.dumps(truth))
    return f'wrote {file} and {len(source.records)} images to {folder}'
