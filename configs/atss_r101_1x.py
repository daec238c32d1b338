"""ATSS with ResNet-101 and FPN, 12 epochs of COCO.

This is mmdetection's `atss_r101_fpn_1x_coco.py`.

Expected: AP 41.5 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 90,000 steps of 16 images, 2 on each of 8 devices; an image takes 1.6 times as
long as with atss_r50_1x, by the inference times in the model zoo.

    python train.py --config=configs/atss_r101_1x.py --workdir=work_dirs/atss_r101_1x
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the R50 recipe with a deeper backbone."""
    config = atss_r50_1x.get_config()
    config.model.pretrained = 'torchvision://resnet101'
    config.model.backbone.depth = 101
    return config
