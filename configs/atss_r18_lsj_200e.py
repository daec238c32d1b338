"""ATSS with ResNet-18, 200 epochs of COCO with large-scale jitter in half precision.

This is mmdetection's `atss_r18_fpn_8xb8-amp-lsj-200e_coco.py`: atss_r50_lsj_200e with
a smaller backbone.

Expected: mmdetection publishes no AP for it; not trained here.
Cost: 366,000 steps of 64 images of 1024 x 1024, 8 on each of 8 devices.

    python train.py --config=configs/atss_r18_lsj_200e.py --workdir=work_dirs/r18_lsj
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_lsj_200e


def get_config() -> ConfigDict:
    """Returns the R50 recipe with a smaller backbone."""
    config = atss_r50_lsj_200e.get_config()
    config.model.pretrained = 'torchvision://resnet18'
    config.model.backbone.depth = 18
    config.model.neck.in_channels = (64, 128, 256, 512)
    return config
