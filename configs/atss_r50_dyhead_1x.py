"""ATSS with ResNet-50, FPN and DyHead, 12 epochs of COCO.

This is mmdetection's `atss_r50_fpn_dyhead_1x_coco.py`: six blocks of attention over
scales, positions and channels replace the towers of the head.

Expected: AP 43.3 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 90,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_dyhead_1x.py --workdir=work_dirs/dyhead
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the R50 recipe with DyHead as a second neck."""
    config = atss_r50_1x.get_config()
    dyhead = dict(
        type='DyHead',
        in_channels=256,
        out_channels=256,
        num_blocks=6,
        zero_init_offset=True,
    )
    with config.ignore_type():  # a tuple of sections replaces a section
        config.model.neck = (config.model.neck.to_dict(), dyhead)
    config.model.bbox_head.stacked_convs = 0
    return config
