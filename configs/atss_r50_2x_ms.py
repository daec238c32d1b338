"""ATSS with ResNet-50, 24 epochs of COCO at random scales: short sides of 640 to 800.

Expected: no AP is published (atss_r50_1x: 39.4); not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_2x_ms.py --workdir=work_dirs/r50_2x_ms
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the 1x recipe, twice as long and at random scales."""
    config = atss_r50_1x.get_config()
    config.data.train.pipeline.img_scales = ((1333, 640), (1333, 800))
    config.lr_config.step = (16, 22)
    config.total_epochs = 24
    return config
