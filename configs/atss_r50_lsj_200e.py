"""ATSS with ResNet-50, 200 epochs of COCO with large-scale jitter in half precision.

This is mmdetection's `atss_r50_fpn_8xb8-amp-lsj-200e_coco.py`: images are resized to
0.1 to 2 times 1024 pixels and cropped to 1024 x 1024, for 25 epochs of 8 passes over
the data.

Differs from mmdet: bfloat16 instead of float16; anchors in the padding of an image are
ignored instead of trained as background.

Expected: mmdetection publishes no AP for it; not trained here.
Cost: 366,000 steps of 64 images of 1024 x 1024, 8 on each of 8 devices.

    python train.py --config=configs/atss_r50_lsj_200e.py --workdir=work_dirs/r50_lsj
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the R50 recipe with jittered images, large batches and many epochs."""
    config = atss_r50_1x.get_config()
    config.data.samples_per_gpu = 8
    config.auto_scale_lr.base_batch_size = 64
    config.data.workers_per_gpu = 4
    config.data.train.times = 8
    config.data.train.pipeline.update(
        img_scale=(1024, 1024),
        random_resize=dict(ratio_range=(0.1, 2.0)),
        random_crop=dict(
            crop_size=(1024, 1024), recompute_bbox=True, allow_negative_crop=True
        ),
        filter_annotations=dict(min_gt_bbox_wh=(0.01, 0.01), keep_empty=True),
    )
    config.optimizer.update(lr=0.04, weight_decay=0.00004)
    config.fp16 = dict(loss_scale='dynamic')
    config.lr_config.update(warmup_iters=1000, warmup_ratio=0.067, step=(22, 24))
    config.total_epochs = 25
    config.evaluation.interval = 5
    return config
