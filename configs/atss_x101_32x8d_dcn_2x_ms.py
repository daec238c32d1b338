"""ATSS with ResNeXt-101 32x8d and DCNv2, 24 epochs of COCO, short sides of 640 to 800.

The 3x3 convolutions of stages 3 and 4 and the last layer of each tower are deformable.

Expected: AP 47.7 on val2017 and on test-dev, as reported by the paper's authors for
their own code (github.com/sfzhang15/ATSS, `ATSS_dcnv2_X_101_32x8d_FPN_2x`). Their
recipe is the same except that images are not divided by a standard deviation and that
the warm-up is constant. Not trained here. `--tta` uses the scales of the authors'
multi-scale testing.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_32x8d_dcn_2x_ms.py --workdir=work_dirs/x
"""

from ml_collections import ConfigDict

from atss_jax.configs import (
    atss_r50_dcn_1x,
    atss_x101_32x8d_2x_ms,
    atss_x101_64x4d_dcn_2x_ms,
)


def get_config() -> ConfigDict:
    """Returns the X101 recipe with deformable convolutions."""
    config, stages = atss_x101_32x8d_2x_ms.get_config(), (False, False, True, True)
    atss_r50_dcn_1x.with_dcn(config, stages)
    scales = atss_x101_64x4d_dcn_2x_ms.SCALES
    config.test_cfg.tta = dict(img_scales=scales, flip=True)
    return config
