"""ATSS with Swin-L, FPN and DyHead, 24 epochs of COCO, short sides of 480 to 1200.

This is mmdetection's `atss_swin-l-p4-w12_fpn_dyhead_ms-2x_coco.py`. The backbone starts
from the official weights, trained on ImageNet-22k at 384 x 384 pixels. As there, 24
epochs are 12 of twice the data: the rate falls after 16 and 22 of them.

Expected: AP 56.2 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 180,000 steps of 16 images, 2 on each of 8 devices. `model.backbone.with_cp=True`
computes the blocks of the backbone twice, and keeps far less for the gradient: on TPU
v5e, in bfloat16, the 2 images fit with it, and not without.

    python train.py --config=configs/atss_swin_l_dyhead_2x_ms.py --workdir=work_dirs/x
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_caffe_dyhead_1x, atss_r50_dyhead_1x

SWIN_L = (
    'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
    'swin_large_patch4_window12_384_22k.pth'
)


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = atss_r50_dyhead_1x.get_config()
    atss_r50_caffe_dyhead_1x.like_the_authors(config)
    config.model.pretrained = SWIN_L
    config.model.backbone = dict(
        type='SwinTransformer',
        pretrain_img_size=384,
        embed_dims=192,
        depths=(2, 2, 18, 2),
        num_heads=(6, 12, 24, 48),
        window_size=12,
        mlp_ratio=4,
        qkv_bias=True,
        qk_scale=None,
        drop_rate=0.0,
        attn_drop_rate=0.0,
        drop_path_rate=0.2,
        patch_norm=True,
        out_indices=(1, 2, 3),
        use_abs_pos_embed=False,
        frozen_stages=-1,
        with_cp=False,
        convert_weights=True,  # the weights are those of the official code
    )
    config.model.neck[0].update(in_channels=(384, 768, 1536), start_level=0)
    train = config.data.train
    train.times = 2
    train.pipeline.img_scales = ((2000, 480), (2000, 1200))
    for split in ('train', 'val', 'test'):
        config.data[split].pipeline.img_scale = (2000, 1200)
    config.optimizer = dict(
        type='AdamW',
        lr=0.00005,
        betas=(0.9, 0.999),
        eps=1e-8,
        weight_decay=0.05,
        paramwise_cfg=dict(
            custom_keys=dict(
                absolute_pos_embed=dict(decay_mult=0.0),
                relative_position_bias_table=dict(decay_mult=0.0),
                norm=dict(decay_mult=0.0),
            )
        ),
    )
    return config
