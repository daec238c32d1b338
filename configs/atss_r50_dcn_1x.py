"""ATSS with ResNet-50 and deformable convolutions (DCNv2), 12 epochs of COCO.

The 3x3 convolutions of stages 2 to 4 and the last layer of each tower are deformable.

Expected: AP 43.2 on val2017 and 43.0 on test-dev, as reported by the paper's authors
for their own code (github.com/sfzhang15/ATSS, `ATSS_dcnv2_R_50_FPN_1x`). Their recipe
is the same except for Caffe's weights and a constant warm-up. Not trained here;
mmdetection has no such config for ATSS.
Cost: 90,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_dcn_1x.py --workdir=work_dirs/r50_dcn
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x

DCN = dict(type='DCNv2', deform_groups=1, fallback_on_stride=False)


def get_config() -> ConfigDict:
    """Returns the R50 recipe with deformable convolutions."""
    return with_dcn(atss_r50_1x.get_config(), (False, True, True, True))


def with_dcn(config: ConfigDict, stages: tuple[bool, ...]) -> ConfigDict:
    """Makes some stages and the towers deformable, as in the authors' configs."""
    config.model.backbone.dcn = DCN
    config.model.backbone.stage_with_dcn = stages
    config.model.bbox_head.dcn_on_last_conv = True
    return config
