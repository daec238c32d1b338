"""ATSS with ResNet-101, 24 epochs of COCO at random scales: short sides of 640 to 800.

Expected: AP 43.5 on val2017 and 43.6 on test-dev, as reported by the paper's authors
for their own code (github.com/sfzhang15/ATSS, `ATSS_R_101_FPN_2x`). Their recipe is the
same except for Caffe's weights and a constant warm-up. Not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r101_2x_ms.py --workdir=work_dirs/r101_2x_ms
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_2x_ms


def get_config() -> ConfigDict:
    """Returns the R50 recipe with a deeper backbone."""
    config = atss_r50_2x_ms.get_config()
    config.model.pretrained = 'torchvision://resnet101'
    config.model.backbone.depth = 101
    return config
