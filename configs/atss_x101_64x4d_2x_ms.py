"""ATSS with ResNeXt-101 64x4d, 24 epochs of COCO at short sides of 640 to 800.

Expected: AP 45.5 on val2017 and 45.6 on test-dev, as reported by the paper's authors
for their own code (github.com/sfzhang15/ATSS, `ATSS_X_101_64x4d_FPN_2x`). Their recipe
is the same except for Detectron's weights, frozen batch norms and a constant warm-up.
Not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_64x4d_2x_ms.py --workdir=work_dirs/x101
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r101_2x_ms


def get_config() -> ConfigDict:
    """Returns the R101 recipe with grouped convolutions and mmdetection's weights."""
    config = atss_r101_2x_ms.get_config()
    config.model.pretrained = 'open-mmlab://resnext101_64x4d'
    config.model.backbone.update(type='ResNeXt', groups=64, base_width=4)
    return config
