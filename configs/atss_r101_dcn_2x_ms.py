"""ATSS, ResNet-101 with DCNv2, 24 epochs of COCO at short sides from 640 to 800.

Expected: AP 46.1 on val2017, 46.3 on test-dev: the paper's authors with their own code
(github.com/sfzhang15/ATSS, `ATSS_dcnv2_R_101_FPN_2x`), from Caffe's weights and a
constant warm-up, else with this recipe; not trained here.
Cost: 180,000 steps of 16 images: 2 on each of 8 devices.

    python train.py --config=configs/atss_r101_dcn_2x_ms.py --workdir=work_dirs/r101_dcn
"""

from ml_collections import ConfigDict

from configs import atss_r101_2x_ms
from configs.atss_r50_dcn_1x import with_dcn


def get_config() -> ConfigDict:
    """The R101 recipe, deformable."""
    return with_dcn(atss_r101_2x_ms.get_config(), (False, True, True, True))
