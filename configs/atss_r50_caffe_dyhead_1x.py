"""ATSS with ResNet-50 from Caffe's weights, FPN and DyHead, 12 epochs of COCO.

This is mmdetection's `atss_r50-caffe_fpn_dyhead_1x_coco.py`, which reproduces the code
of DyHead's authors. It differs from `atss_r50_dyhead_1x` in the weights to start from
(BGR images, frozen batch norms), in random instead of zero offsets to start from, in
1x1 convolutions for the predictions, in anchors centered in their cells, and in
images resized like Pillow's and padded to multiples of 128.

Expected: AP 42.5 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 90,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_caffe_dyhead_1x.py --workdir=work_dirs/x
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_caffe_1x, atss_r50_dyhead_1x


def get_config() -> ConfigDict:
    """Returns the recipe with DyHead, starting from Caffe's weights."""
    config = atss_r50_dyhead_1x.get_config()
    caffe = atss_r50_caffe_1x.get_config()
    config.model.pretrained = caffe.model.pretrained
    config.model.backbone = caffe.model.backbone
    for split in ('train', 'val', 'test'):
        config.data[split].pipeline.img_norm_cfg = caffe.data[
            split
        ].pipeline.img_norm_cfg
    return like_the_authors(config)


def like_the_authors(config: ConfigDict) -> ConfigDict:
    """Sets what DyHead's authors have otherwise than mmdetection by default."""
    config.model.neck[1]['zero_init_offset'] = False
    config.model.bbox_head.pred_kernel_size = 1
    config.model.bbox_head.anchor_generator.center_offset = 0.5
    for split in ('train', 'val', 'test'):
        config.data[split].pipeline.backend = 'pillow'
        config.data[split].pipeline.pad.size_divisor = 128
    return config
