"""ATSS, ResNet-101, 24 epochs of COCO at short sides drawn from 640 to 800.

Expected: AP 43.5 on val2017, 43.6 on test-dev: the paper's authors with their own code
(github.com/sfzhang15/ATSS, `ATSS_R_101_FPN_2x`), from Caffe's weights and a constant
warm-up, else with this recipe; not trained here.
Cost: 180,000 steps of 16 images: 2 on each of 8 devices.

    python train.py --config=configs/atss_r101_2x_ms.py --workdir=work_dirs/r101_2x_ms
"""

from ml_collections import ConfigDict

from configs import atss_r50_2x_ms


def get_config() -> ConfigDict:
    """The R50 recipe with a deeper backbone."""
    config = atss_r50_2x_ms.get_config()
    config.model.pretrained = 'torchvision://resnet101'
    config.model.backbone.depth = 101
    return config
