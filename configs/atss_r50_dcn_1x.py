"""ATSS, ResNet-50 with deformable convolutions (DCNv2), 12 epochs of COCO.

In the 3x3 convolutions of stages 2 to 4 and in the last layer of each tower.

Expected: AP 43.2 on val2017, 43.0 on test-dev: the paper's authors with their own code
(github.com/sfzhang15/ATSS, `ATSS_dcnv2_R_50_FPN_1x`), from Caffe's weights and a
constant warm-up, else with this recipe; not trained here. mmdetection has no such
config for ATSS.
Cost: 90,000 steps of 16 images: 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_dcn_1x.py --workdir=work_dirs/r50_dcn
"""

from ml_collections import ConfigDict

from configs import atss_r50_1x

DCN = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)


def get_config() -> ConfigDict:
    """The R50 recipe, deformable."""
    return with_dcn(atss_r50_1x.get_config(), (False, True, True, True))


def with_dcn(config: ConfigDict, stages: tuple[bool, ...]) -> ConfigDict:
    """Deformable convolutions in some stages and in the towers, as the authors'."""
    config.model.backbone.dcn = DCN
    config.model.backbone.stage_with_dcn = stages
    config.model.bbox_head.dcn_on_last_conv = True
    return config
