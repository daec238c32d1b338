"""ATSS with ResNet-50 from Caffe's weights, 12 epochs of COCO.

As these weights require, images are BGR and not divided by a standard deviation, batch
norms are entirely frozen, and the stride of a block is in its first 1x1 convolution.

Expected: AP 39.3 on val2017, as reported by the paper's authors for their own code
(github.com/sfzhang15/ATSS, `ATSS_R_50_FPN_1x`). Their recipe is the same except for a
constant warm-up. Not trained here; mmdetection has no such config for ATSS.
Cost: 90,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_caffe_1x.py --workdir=work_dirs/r50_caffe
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the R50 recipe, starting from other weights."""
    config = atss_r50_1x.get_config()
    config.model.pretrained = 'open-mmlab://detectron2/resnet50_caffe'
    config.model.backbone.style = 'caffe'
    config.model.backbone.norm_cfg.requires_grad = False
    for split in ('train', 'val', 'test'):
        config.data[split].pipeline.img_norm_cfg = dict(
            mean=(103.53, 116.28, 123.675), std=(1.0, 1.0, 1.0), to_rgb=False
        )
    return config
