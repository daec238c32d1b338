"""ATSS with ResNeXt-101 64x4d and DCNv2, 24 epochs of COCO, short sides of 640 to 800.

The 3x3 convolutions of stages 3 and 4 and the last layer of each tower are deformable.

Expected: AP 47.7 on val2017 and on test-dev, and 50.7 on test-dev with multi-scale
testing, as reported by the paper's authors for their own code
(github.com/sfzhang15/ATSS, `ATSS_dcnv2_X_101_64x4d_FPN_2x`). Their recipe is the same
except for Detectron's weights, frozen batch norms and a constant warm-up; their
multi-scale testing also drops boxes of some sizes at some scales, and merges boxes by
voting instead of a single NMS. Not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_64x4d_dcn_2x_ms.py --workdir=work_dirs/x
    python eval.py --workdir=work_dirs/x --tta
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_dcn_1x, atss_x101_64x4d_2x_ms

# Short sides of the authors' TEST.BBOX_AUG; long sides are at most 1333 for short sides
# of up to 800, and at most 3000 above.
SCALES = (
    *((1333, side) for side in (400, 500, 600, 640, 700, 800)),
    *((3000, side) for side in (900, 1000, 1100, 1200, 1300, 1400, 1800)),
)


def get_config() -> ConfigDict:
    """Returns the X101 recipe with deformable convolutions."""
    config, stages = atss_x101_64x4d_2x_ms.get_config(), (False, False, True, True)
    atss_r50_dcn_1x.with_dcn(config, stages)
    config.test_cfg.tta = dict(img_scales=SCALES, flip=True)
    return config
