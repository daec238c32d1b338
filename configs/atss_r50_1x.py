"""ATSS with ResNet-50 and FPN, 12 epochs of COCO: the main recipe.

This is mmdetection's `atss_r50_fpn_1x_coco.py`; most other configs build on it.

Expected: AP 39.4 on val2017 (mmdetection's model zoo, same recipe; not trained here).
Cost: 90,000 steps of 16 images, 2 on each of 8 devices.

    python train.py --config=configs/atss_r50_1x.py --workdir=work_dirs/atss_r50_1x

Fields have mmdetection's names and nesting (2.x style); docs/config.md explains all of
them. Any field can be set on the command line: `--config.optimizer.lr=0.005`,
`--config.data.train.pipeline.img_scale="(1000, 600)"`.
"""

from ml_collections import ConfigDict


def _pipeline(**more):
    return dict(
        img_scale=(1333, 800),  # (long side, short side) that the image must fit into
        keep_ratio=True,
        backend='cv2',  # whose bilinear resize; or 'pillow'
        img_norm_cfg=dict(
            mean=(123.675, 116.28, 103.53), std=(58.395, 57.12, 57.375), to_rgb=True
        ),
        pad=dict(size_divisor=32),
        **more,
    )


def _val2017():
    return dict(
        type='CocoDataset',
        ann_file='data/coco/annotations/instances_val2017.json',
        img_prefix='data/coco/val2017/',
        classes=None,  # names and order; None: as in the annotation file
        indices=None,  # or a number: only that many images, the first
        pipeline=_pipeline(),
    )


def get_config() -> ConfigDict:
    """Returns the recipe."""
    config = dict(
        model=dict(
            type='ATSS',
            pretrained='torchvision://resnet50',  # or a path; None: random weights
            backbone=dict(
                type='ResNet',
                depth=50,
                num_stages=4,
                out_indices=(0, 1, 2, 3),
                frozen_stages=1,
                norm_cfg=dict(type='BN', requires_grad=True),
                norm_eval=True,
                style='pytorch',
                dcn=None,  # or dict(type='DCNv2', ...), and stage_with_dcn
            ),
            neck=dict(
                type='FPN',
                in_channels=(256, 512, 1024, 2048),
                out_channels=256,
                start_level=1,
                add_extra_convs='on_output',
                num_outs=5,
            ),
            bbox_head=dict(
                type='ATSSHead',
                num_classes=80,
                in_channels=256,
                stacked_convs=4,
                feat_channels=256,
                norm_cfg=dict(type='GN', num_groups=32, requires_grad=True),
                pred_kernel_size=3,
                dcn_on_last_conv=False,  # True: as in the authors' configs with DCNv2
                anchor_generator=dict(
                    type='AnchorGenerator',
                    ratios=(1.0,),
                    octave_base_scale=8,
                    scales_per_octave=1,
                    strides=(8, 16, 32, 64, 128),
                    center_offset=0.0,  # 0.5: anchors are centered in their cells
                ),
                bbox_coder=dict(
                    type='DeltaXYWHBBoxCoder',
                    target_means=(0.0, 0.0, 0.0, 0.0),
                    target_stds=(0.1, 0.1, 0.2, 0.2),
                ),
                loss_cls=dict(
                    type='FocalLoss',
                    use_sigmoid=True,
                    gamma=2.0,
                    alpha=0.25,
                    loss_weight=1.0,
                ),
                loss_bbox=dict(type='GIoULoss', loss_weight=2.0),
                loss_centerness=dict(
                    type='CrossEntropyLoss', use_sigmoid=True, loss_weight=1.0
                ),
            ),
        ),
        train_cfg=dict(
            assigner=dict(type='ATSSAssigner', topk=9),
            allowed_border=-1,
            pos_weight=-1,
            debug=False,
        ),
        test_cfg=dict(
            nms_pre=1000,
            min_bbox_size=0,
            score_thr=0.05,
            nms=dict(type='nms', iou_threshold=0.6),
            with_nms=True,
            max_per_img=100,
            tta=None,  # for --tta: or dict(img_scales=((1333, 800),), flip=True)
        ),
        data=dict(
            samples_per_gpu=2,  # images per device and step
            workers_per_gpu=2,  # loading processes per device; 0: threads
            max_boxes=100,  # boxes per image at most; more are an error
            on_error='raise',  # or 'skip': leaves out malformed records and counts them
            max_bad_pictures=0.001,  # fraction of images that may be unreadable
            reduced_decoding=False,  # or True: large JPEGs faster, not pixel-equal
            canvases=None,  # or ((height, width), ...); None: landscape and portrait
            train=dict(
                type='CocoDataset',
                ann_file='data/coco/annotations/instances_train2017.json',
                img_prefix='data/coco/train2017/',
                classes=None,
                indices=None,
                filter_empty_gt=True,
                min_size=32,
                times=1,  # passes over the data per epoch
                pipeline=_pipeline(
                    flip_ratio=0.5,
                    random_resize=None,  # or dict(ratio_range=(0.1, 2.0)) of img_scale
                    img_scales=None,  # instead of img_scale: ((1333, 640), (1333, 800))
                    multiscale_mode='range',  # between two scales; 'value': one of them
                    random_crop=None,  # or dict(crop_size=(width, height), ...)
                    filter_annotations=None,  # or dict(min_gt_bbox_wh=(1, 1), ...)
                ),
            ),
            val=_val2017(),
            test=_val2017(),
        ),
        optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
        optimizer_config=dict(
            grad_clip=None,  # or dict(max_norm=35, norm_type=2)
            cumulative_iters=1,  # batches per update
        ),
        fp16=None,  # or dict(loss_scale='dynamic'): trains in bfloat16
        ema=None,  # or dict(momentum=0.0002): evaluates averaged weights
        lr_config=dict(
            policy='step',
            warmup='linear',
            warmup_iters=500,
            warmup_ratio=0.001,
            step=(8, 11),
            gamma=0.1,
        ),
        # If enabled, lr is multiplied by (images per step) / 16.
        auto_scale_lr=dict(enable=False, base_batch_size=16),
        total_epochs=12,
        evaluation=dict(interval=1, metric='bbox'),
        checkpoint_config=dict(interval=1, max_keep_ckpts=2),
        log_config=dict(interval=50),
        load_from=None,
        resume_from=None,
        seed=0,
        parallel='pmap',  # or 'shard_map', with the same results
    )
    return ConfigDict(config)
