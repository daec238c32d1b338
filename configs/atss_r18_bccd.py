"""ATSS with ResNet-18 from scratch on BCCD blood cells: a check on real data.

Expected: AP of about 0.39 on val. mmdetection 3.3.0 with the same recipe has 0.391 and
0.385 with two seeds; docs/results.md has our figures.
Cost: 8 epochs of 26 steps of 8 images.

    python train.py --config=configs/atss_r18_bccd.py --workdir=work_dirs/bccd

The 3 classes are red cells, white cells and platelets; the images, converted to COCO
files, are expected in data/bccd (github.com/Shenggan/BCCD_Dataset).
"""

from ml_collections import ConfigDict

from atss_jax.configs import atss_r50_1x


def get_config() -> ConfigDict:
    """Returns the R50 recipe with a small backbone that starts from random weights."""
    config = atss_r50_1x.get_config()
    model = config.model
    model.pretrained = None
    model.backbone.update(depth=18, frozen_stages=-1, norm_eval=False)
    model.neck.in_channels = (64, 128, 256, 512)
    model.bbox_head.num_classes = 3
    config.data.samples_per_gpu = 8
    for split in ('train', 'val', 'test'):
        config.data[split].ann_file = f'data/bccd/annotations/instances_{split}.json'
        config.data[split].img_prefix = 'data/bccd/images/'
        config.data[split].pipeline.img_scale = (320, 240)
    config.optimizer.lr = 0.005
    config.auto_scale_lr.base_batch_size = 8
    config.optimizer_config.grad_clip = dict(max_norm=10, norm_type=2)
    config.lr_config.update(warmup_iters=100, step=(5, 7))
    config.total_epochs = 8
    config.log_config.interval = 13
    return config
