"""A detector small enough to compile for TPUs in half a minute."""

from atss_jax.config import load_config

SIDE = 128
SCALES = {
    f'data.{split}.pipeline.img_scale': (SIDE, SIDE)
    for split in ('train', 'val', 'test')
}
# Two stages of an R18, narrow neck and head, strides 4 and 8, bfloat16.
SMALL = {
    **SCALES,
    'model.pretrained': None,
    'model.backbone.depth': 18,
    'model.backbone.num_stages': 2,
    'model.backbone.out_indices': (0, 1),
    'model.neck.in_channels': (64, 128),
    'model.neck.out_channels': 32,
    'model.neck.start_level': 0,
    'model.neck.num_outs': 2,
    'model.neck.add_extra_convs': False,
    'model.bbox_head.num_classes': 3,
    'model.bbox_head.in_channels': 32,
    'model.bbox_head.feat_channels': 32,
    'model.bbox_head.stacked_convs': 1,
    'model.bbox_head.anchor_generator.strides': (4, 8),
    'data.max_boxes': 8,
    'test_cfg.nms_pre': 100,
    'fp16': {'loss_scale': 'dynamic'},
}
# Channels of the shortcuts' norms of the trained stage: see `SHARED`.
_SHORTCUTS = 128
SHARED = 4 * _SHORTCUTS
"""Bytes of gradients that are not sent twice.

The biases of the last norm of a block and of the norm in its shortcut are added to the
same sum, and have the same gradient.
"""


def small_config():
    """The config of the small detector."""
    return load_config('atss_r50_1x', SMALL)
