"""The main recipe with COCO as a data set of TensorFlow Datasets, local or in a bucket.

Expected and cost: as configs/atss_r50_1x.py. On data prepared by `prepare-tfds` the
batches are the same bit for bit; docs/data.md says how to prepare data and put it in a
bucket.

    python train.py --config=configs/atss_r50_1x_tfds.py --workdir=work_dirs/tfds
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def _tfds(section, split):
    section = section.to_dict()
    for name in ('ann_file', 'img_prefix'):
        del section[name]
    return section | dict(
        type='TFDSDataset',
        data_dir='data/tfds',  # or gs://BUCKET/tfds
        name='coco/2017:1.1.0',  # dataset/config:version
        split=split,
    )


def get_config() -> ConfigDict:
    """Returns the R50 recipe with another source of data."""
    config = atss_r50_1x.get_config()
    data = config.data
    for section, split in (
        ('train', 'train'),
        ('val', 'validation'),
        ('test', 'validation'),
    ):
        data[section] = ConfigDict(_tfds(data[section], split))
    return config
