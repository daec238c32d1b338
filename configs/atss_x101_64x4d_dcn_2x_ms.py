"""ATSS, ResNeXt-101 64x4d with DCNv2, 24 epochs of COCO, short sides from 640 to 800.

In the 3x3 convolutions of stages 3 and 4 and in the last layer of each tower.

Expected: AP 47.7 on val2017 and on test-dev, with multi-scale testing 50.7 on test-dev:
the paper's authors with their own code (github.com/sfzhang15/ATSS,
`ATSS_dcnv2_X_101_64x4d_FPN_2x`), from Detectron's weights, with frozen batch norms and
a constant warm-up, else with this recipe; not trained here. Their multi-scale testing
also drops boxes of some sizes at some scales, and votes where one NMS merges here.
Cost: 180,000 steps of 16 images: 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_64x4d_dcn_2x_ms.py --workdir=work_dirs/x
    python eval.py --workdir=work_dirs/x --tta
"""

from ml_collections import ConfigDict

from configs import atss_x101_64x4d_2x_ms
from configs.atss_r50_dcn_1x import with_dcn

# The short sides of the authors' TEST.BBOX_AUG; the long side is at most 1333 up to
# 800, and 3000 above.
SCALES = (
    *((1333, side) for side in (400, 500, 600, 640, 700, 800)),
    *((3000, side) for side in (900, 1000, 1100, 1200, 1300, 1400, 1800)),
)


def get_config() -> ConfigDict:
    """The X101 recipe, deformable."""
    config = with_dcn(atss_x101_64x4d_2x_ms.get_config(), (False, False, True, True))
    config.test_cfg.tta = dict(img_scales=SCALES, flip=True)
    return config
