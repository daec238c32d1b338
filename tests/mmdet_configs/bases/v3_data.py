"""Data of v3_r50.py."""

root = 'data/coco/'
annotations = root + 'annotations/instances_'
rgb = dict(mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
size = (1333, 800)
load = [dict(type='LoadImageFromFile', backend_args=None), dict(type='LoadAnnotations')]
pipelines = {
    'train': [
        *load,
        dict(type='Resize', scale=size, keep_ratio=True),
        dict(type='RandomFlip', prob=0.5),
        dict(type='PackDetInputs'),
    ],
    'test': [
        load[0],
        dict(type='Resize', scale=size, keep_ratio=True),
        load[1],
        dict(type='PackDetInputs', meta_keys=('img_id', 'ori_shape')),
    ],
}
train_dataloader = dict(
    batch_size=2,
    num_workers=2,
    sampler=dict(type='DefaultSampler', shuffle=True),
    batch_sampler=dict(type='AspectRatioBatchSampler'),
    dataset=dict(
        type='CocoDataset',
        data_root=root,
        ann_file='annotations/instances_train2017.json',
        data_prefix=dict(img='train2017/'),
        filter_cfg=dict(filter_empty_gt=True, min_size=32),
        pipeline=pipelines['train'],
    ),
)
val_dataloader = dict(
    batch_size=1,
    num_workers=2,
    drop_last=False,
    sampler=dict(type='DefaultSampler', shuffle=False),
    dataset=dict(
        type='CocoDataset',
        ann_file=annotations + 'val2017.json',
        data_prefix=dict(img=root + 'val2017/'),
        test_mode=True,
        pipeline=pipelines['test'],
    ),
)
test_dataloader = val_dataloader
val_evaluator = dict(type='CocoMetric', ann_file=annotations + 'val2017.json')
test_evaluator = val_evaluator
