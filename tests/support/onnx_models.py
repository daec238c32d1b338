"""Detectors to export, and ONNX graphs of single functions to run."""

import dataclasses

import flax.linen as nn
import numpy as np

from atss_jax.detection.anchors import AnchorGenerator
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.inference.onnx_file.graph import Graph, to_model
from atss_jax.inference.onnx_file.runtime import open_session, runner
from atss_jax.models.dyhead import DyHead
from atss_jax.models.resnet import stage_channels
from atss_jax.models.swin import SwinTransformer
from atss_jax.training.trained_model import TrainedModel
from atss_jax.weights import mmdet
from tests.support.recipes import golden_state_dict
from tests.support.small import BN, GN, random_variables, small_model
from tests.support.swin import tiny_swin

DCN = nn.FrozenDict(type='DCNv2', deform_groups=2)


def with_dyhead():
    """A small model whose four levels go through two blocks of DyHead."""
    model = small_model(neck={'num_outs': 4}, head={'stacked_convs': 0})
    return model.clone(neck=(model.neck, DyHead(16, 16, 2)))


SMALL = {
    'R18': (small_model, {}),
    'GN in the backbone, BN in the head': (
        lambda: small_model({'norm_cfg': GN}, head={'norm_cfg': BN}),
        {},
    ),
    'ResNeXt with DCN, levels on_input, DCN in the towers': (
        lambda: small_model(
            {
                'depth': 50,
                'groups': 4,
                'dcn': DCN,
                'stage_with_dcn': (False, True),
            },
            {'add_extra_convs': 'on_input', 'num_outs': 4},
            {'stacked_convs': 2, 'dcn_on_last_conv': True},
        ),
        {},
    ),
    'caffe, levels by max pooling, two anchors, 1x1 at the end': (
        lambda: small_model(
            {'depth': 50, 'style': 'caffe'},
            {'add_extra_convs': False, 'num_outs': 4},
            {'num_anchors': 2, 'pred_kernel_size': 1},
        ),
        {'ratios': (0.5, 2.0)},
    ),
    'levels on_lateral, four anchors, 5x5 at the end': (
        lambda: small_model(
            {},
            {'add_extra_convs': 'on_lateral', 'num_outs': 4},
            {'num_anchors': 4, 'pred_kernel_size': 5},
        ),
        {'ratios': (0.5, 2.0), 'scales_per_octave': 2, 'center_offset': 0.5},
    ),
    'Swin, windows of 3': (tiny_swin, {}),
    'Swin, absolute positions, no norm, no bias, windows of 4': (
        lambda: tiny_swin(
            depths=(2, 2, 1),
            num_heads=(1, 2, 2),
            use_abs_pos_embed=True,
            pretrain_img_size=48,
            patch_norm=False,
            qkv_bias=False,
            qk_scale=0.3,
            window_size=4,
        ),
        {},
    ),
    'DyHead': (with_dyhead, {}),
}
"""Models by what is special about them, and fields of their anchors."""


def variables_of(model):
    """Weights by the recipe of the golden files, which keeps activations small.

    Deformable convolutions with random offsets of many cells would multiply rounding
    errors a thousandfold.
    """
    state_dict = mmdet.to_state_dict(random_variables(model))
    shapes = {name: value.shape for name, value in state_dict.items()}
    return mmdet.to_variables(golden_state_dict(shapes), model)


def trained(experiment, model, **anchors):
    """A model with generated weights in an experiment of another one."""
    detect = DetectConfig(
        anchors=AnchorGenerator(model.strides, **anchors),
        score_thr=0.05,
        size_divisor=model.size_divisor,
    )
    names = tuple(f'class {i}' for i in range(model.bbox_head.num_classes))
    experiment = dataclasses.replace(experiment, model=model, detect=detect)
    variables = variables_of(model)
    if experiment.data['test'].normalizer.std == (1.0, 1.0, 1.0):
        # Caffe's weights expect pixels that are 58 times as large.
        variables['params']['backbone']['conv1']['kernel'] /= 58
    return TrainedModel(experiment, variables, names)


def narrow(model):
    """A model with few channels, and with fewer blocks where there are many."""
    backbone, head = model.backbone, model.bbox_head
    if isinstance(backbone, SwinTransformer):
        backbone = backbone.clone(
            embed_dims=12, depths=(1, 2, 2, 1), num_heads=(1, 2, 3, 6)
        )
        channels = tuple(12 * 2**i for i in range(4))
    else:
        backbone = backbone.clone(depth=min(backbone.depth, 50))
        channels = stage_channels(backbone.depth)
    inputs = tuple(channels[i] for i in backbone.out_indices)
    necks = model.neck if isinstance(model.neck, tuple) else (model.neck,)
    neck = [necks[0].clone(in_channels=inputs, out_channels=32)]
    neck += [x.clone(in_channels=32, out_channels=32, num_blocks=1) for x in necks[1:]]
    norm = nn.FrozenDict({**head.norm_cfg, 'num_groups': 8})
    head = head.clone(num_classes=3, in_channels=32, feat_channels=32, norm_cfg=norm)
    is_chain = isinstance(model.neck, tuple)
    return model.clone(
        backbone=backbone, neck=tuple(neck) if is_chain else neck[0], bbox_head=head
    )


def run_graph(write, inputs, variables=None):
    """The outputs of a graph as NumPy arrays.

    Args:
        write: `(graph, names of the inputs by name) -> tensors`.
        inputs: arrays by name.
        variables: of the module that is written.
    """
    graph = Graph(variables or {'params': {}})
    names = {}
    for name, value in inputs.items():
        shape = [f'{name}_{i}' for i in range(value.ndim)]
        names[name] = graph.input(name, value.dtype.type, tuple(shape))
    for number, tensor in enumerate(write(graph, names)):
        tensor = graph.op('Cast', tensor, to=1)
        graph.output(f'output_{number}', tensor, np.float32, None)
    outputs = runner(open_session(to_model(graph, {}).SerializeToString()))(inputs)
    return list(outputs.values())
