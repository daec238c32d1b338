"""Data of v2_r50.py."""

root = 'data/coco/'
norm = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375], to_rgb=True)
finish = [dict(type='Normalize', **norm), dict(type='Pad', size_divisor=32)]
data = dict(
    train=dict(
        type='CocoDataset',
        ann_file=root + 'annotations/instances_train2017.json',
        img_prefix=root + 'train2017/',
        pipeline=[
            dict(type='LoadImageFromFile'),
            dict(type='LoadAnnotations', with_bbox=True),
            dict(type='Resize', img_scale=(1333, 800), keep_ratio=True),
            dict(type='RandomFlip', flip_ratio=0.5),
            *finish,
            dict(type='DefaultFormatBundle'),
            dict(type='Collect', keys=['img', 'gt_bboxes', 'gt_labels']),
        ],
    ),
)
held_out = dict(
    type='CocoDataset',
    ann_file='annotations/instances_val2017.json',
    img_prefix='val2017/',
    data_root=root,
    pipeline=[
        dict(type='LoadImageFromFile'),
        dict(
            type='MultiScaleFlipAug',
            img_scale=(1333, 800),
            flip=False,
            transforms=[
                dict(type='Resize', keep_ratio=True),
                dict(type='RandomFlip'),
                *finish,
                dict(type='ImageToTensor', keys=['img']),
                dict(type='Collect', keys=['img']),
            ],
        ),
    ],
)
