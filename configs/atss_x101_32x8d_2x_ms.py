"""ATSS with ResNeXt-101 32x8d, 24 epochs of COCO at short sides of 640 to 800.

The weights of the backbone were trained with Caffe2: images are BGR and batch norms are
entirely frozen, as in mmdetection's configs with this backbone.

Expected: AP 44.8 on val2017 and 45.1 on test-dev, as reported by the paper's authors
for their own code (github.com/sfzhang15/ATSS, `ATSS_X_101_32x8d_FPN_2x`). Their recipe
is the same except that images are not divided by a standard deviation and that the
warm-up is constant. Not trained here.
Cost: 180,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_x101_32x8d_2x_ms.py --workdir=work_dirs/x101
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r101_2x_ms


def get_config() -> ConfigDict:
    """Returns the R101 recipe with grouped convolutions and mmdetection's weights."""
    config = atss_r101_2x_ms.get_config()
    config.model.pretrained = 'open-mmlab://detectron2/resnext101_32x8d'
    config.model.backbone.update(type='ResNeXt', groups=32, base_width=8)
    config.model.backbone.norm_cfg.requires_grad = False
    for split in ('train', 'val', 'test'):
        config.data[split].pipeline.img_norm_cfg = dict(
            mean=(103.53, 116.28, 123.675), std=(57.375, 57.12, 58.395), to_rgb=False
        )
    return config
