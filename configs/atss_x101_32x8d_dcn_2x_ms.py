"""ATSS, ResNeXt-101 32x8d with DCNv2, 24 epochs of COCO, short sides from 640 to 800.

In the 3x3 convolutions of stages 3 and 4 and in the last layer of each tower.

Expected: AP 47.7 on val2017 and on test-dev: the paper's authors with their own code
(github.com/sfzhang15/ATSS, `ATSS_dcnv2_X_101_32x8d_FPN_2x`), images not divided by a
standard deviation and with a constant warm-up, else with this recipe; not trained here.
`--tta` looks at the scales that they have for multi-scale testing.
Cost: 180,000 steps of 16 images: 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_32x8d_dcn_2x_ms.py --workdir=work_dirs/x
"""

from ml_collections import ConfigDict

from configs import atss_x101_32x8d_2x_ms
from configs.atss_r50_dcn_1x import with_dcn
from configs.atss_x101_64x4d_dcn_2x_ms import SCALES


def get_config() -> ConfigDict:
    """The X101 recipe, deformable."""
    config = with_dcn(atss_x101_32x8d_2x_ms.get_config(), (False, False, True, True))
    config.test_cfg.tta = dict(img_scales=SCALES, flip=True)
    return config
