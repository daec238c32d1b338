"""ATSS with ResNet-101 and DCNv2, 24 epochs of COCO at short sides of 640 to 800.

Expected: AP 46.1 on val2017 and 46.3 on test-dev, as reported by the paper's authors
for their own code (github.com/sfzhang15/ATSS, `ATSS_dcnv2_R_101_FPN_2x`). Their recipe
is the same except for Caffe's weights and a constant warm-up. Not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r101_dcn_2x_ms.py --workdir=work_dirs/r101_dcn
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_dcn_1x, atss_r101_2x_ms


def get_config() -> ConfigDict:
    """Returns the R101 recipe with deformable convolutions."""
    stages = (False, True, True, True)
    return atss_r50_dcn_1x.with_dcn(atss_r101_2x_ms.get_config(), stages)
