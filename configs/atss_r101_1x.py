"""ATSS, ResNet-101, 12 epochs of COCO: mmdetection's `atss_r101_fpn_1x_coco.py`.

Expected: AP 41.5 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 90,000 steps of 16 images: 2 on each of 8 devices; 1.6 times atss_r50_1x's time
an image, by the model zoo's inference times.

    python train.py --config=configs/atss_r101_1x.py --workdir=work_dirs/atss_r101_1x
"""

from ml_collections import ConfigDict

from configs import atss_r50_1x


def get_config() -> ConfigDict:
    """The R50 recipe with a deeper backbone."""
    config = atss_r50_1x.get_config()
    config.model.pretrained = 'torchvision://resnet101'
    config.model.backbone.depth = 101
    return config
