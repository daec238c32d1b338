"""mmdetection 3.x, text style, written for the tests: the recipe of atss_r50_1x.py."""

_base_ = ['bases/v3_data.py', './bases/v3_run.py']

width = 64 * 4
norm = {'type': 'BN', 'requires_grad': True}
preprocessor = dict(
    type='mmdet.DetDataPreprocessor',
    mean=_base_.rgb['mean'],
    std=_base_.rgb['std'],
    bgr_to_rgb=True,
    pad_mask=True,
    pad_size_divisor=2**5,
)
model = dict(
    type='mmdet.ATSS',
    data_preprocessor=preprocessor,
    backbone=dict(
        type='ResNet',
        depth=50,
        frozen_stages=1,
        norm_cfg=norm,
        with_cp=True,
        init_cfg=dict(type='Pretrained', checkpoint=f'torchvision://resnet{50}'),
    ),
    neck=dict(
        type='FPN',
        in_channels=[width, width * 2, width * 4, width * 8],
        out_channels=width,
        start_level=1,
        add_extra_convs='on_output',
        num_outs=5,
    ),
    bbox_head=dict(
        type='ATSSHead',
        num_classes=80,
        in_channels=width,
        anchor_generator=dict(
            type='AnchorGenerator',
            scales=[8],
            ratios=[1.0],
            strides=[8, 16, 32, 64, 128],
        ),
        bbox_coder=dict(type='DeltaXYWHBBoxCoder', target_stds=[0.1, 0.1, 0.2, 0.2]),
        loss_cls=dict(type='FocalLoss'),
        loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
    ),
    train_cfg=dict(
        assigner=dict(type='ATSSAssigner', topk=9),
        allowed_border=-1,
        pos_weight=-1,
    ),
    test_cfg=dict(
        nms_pre=1000,
        min_bbox_size=0,
        score_thr=0.05,
        nms=dict(iou_threshold=0.6),
        max_per_img=100,
    ),
)
# The base has lr 0.02 and a gradient clip.
optim_wrapper = dict(optimizer=dict(lr=0.02 / 2), clip_grad=None)
train_dataloader = dict(batch_sampler=dict(_delete_=True, type='OtherSampler'))
work_dir = 'work_dirs/{{ fileBasenameNoExtension }}'
