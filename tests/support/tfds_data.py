"""Data as the `coco` of TensorFlow Datasets prepares it, by its own machinery."""

import json
import pathlib
from typing import ClassVar

import numpy as np
import tensorflow_datasets as tfds


def write_official(
    data_dir: pathlib.Path,
    files: dict[str, tuple[pathlib.Path, pathlib.Path]],
    file_format: str = 'array_record',
    dataset: str = 'coco',
    leave_out: tuple[str, ...] = (),
) -> None:
    """Prepares `data_dir/DATASET/2017/1.1.0`, shuffled, from COCO files and folders.

    Args:
        data_dir: folder of data sets.
        files: annotation file and image folder of each split.
        file_format: format of the shards.
        dataset: name of the data set.
        leave_out: features that the records do not have.
    """
    contents = {
        split: json.loads(file.read_text()) for split, (file, _) in files.items()
    }
    categories = next(iter(contents.values()))['categories']
    names = {category['id']: category['name'] for category in categories}

    class Builder(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        name = dataset
        VERSION = tfds.core.Version('1.1.0')
        url_infos: ClassVar = {}  # nothing to download
        BUILDER_CONFIGS = (tfds.core.BuilderConfig(name='2017'),)

        def _info(self):
            features = _features(list(names.values()))
            for name in leave_out:
                del features[name]
            return self.dataset_info_from_configs(
                features=tfds.features.FeaturesDict(features)
            )

        def _split_generators(self, dl_manager):
            return {
                split: self._generate_examples(contents[split], folder)
                for split, (_, folder) in files.items()
            }

        def _generate_examples(self, content, folder):
            for image in content['images']:
                example = _example(image, content['annotations'], folder, names)
                kept = {k: v for k, v in example.items() if k not in leave_out}
                yield image['file_name'], kept

    Builder(data_dir=data_dir, file_format=file_format).download_and_prepare()


def _features(names):
    return {
        'image': tfds.features.Image(encoding_format='jpeg'),
        'image/filename': tfds.features.Text(),
        'image/id': np.int64,
        'objects': tfds.features.Sequence(
            {
                'id': np.int64,
                'area': np.int64,
                'bbox': tfds.features.BBoxFeature(),
                'label': tfds.features.ClassLabel(names=names),
                'is_crowd': np.bool_,
            }
        ),
    }


def _example(image, annotations, folder, names):
    height, width = image['height'], image['width']

    def box(x, y, w, h):
        return tfds.features.BBox(
            ymin=y / height, xmin=x / width, ymax=(y + h) / height, xmax=(x + w) / width
        )

    return {
        'image': str(folder / image['file_name']),
        'image/filename': image['file_name'],
        'image/id': image['id'],
        'objects': [
            {
                'id': annotation['id'],
                'area': annotation['area'],
                'bbox': box(*annotation['bbox']),
                'label': names[annotation['category_id']],
                'is_crowd': bool(annotation['iscrowd']),
            }
            for annotation in annotations
            if annotation['image_id'] == image['id']
        ],
    }
