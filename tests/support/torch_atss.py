"""ATSS's forward pass in plain torch calls, from a state dict with mmdet's names.

Written from mmdetection's description, for images without padding; shares no code
with the package.
"""

import torch
from torch.nn import functional


class Weights:
    """A state dict, and the operations with the weights of a name."""

    def __init__(self, state):
        self.state = state

    def __contains__(self, name):
        return f'{name}.weight' in self.state

    def conv(self, name, x, stride=1):
        weight = self.state[f'{name}.weight']
        bias = self.state.get(f'{name}.bias')
        return functional.conv2d(x, weight, bias, stride, weight.shape[-1] // 2)

    def batch_norm(self, name, x):
        leaves = ('running_mean', 'running_var', 'weight', 'bias')
        return functional.batch_norm(x, *(self.state[f'{name}.{x}'] for x in leaves))

    def group_norm(self, name, x):
        scale, shift = self.state[f'{name}.weight'], self.state[f'{name}.bias']
        return functional.group_norm(x, 32, scale, shift)


def block(weights, name, x, stride, caffe):
    """A basic block, or a bottleneck if there is a third convolution."""
    convs = 3 if f'{name}.conv3' in weights else 2
    strided = 1 if convs == 2 or caffe else 2  # which convolution takes the stride
    out = x
    for index in range(1, convs + 1):
        conv_stride = stride if index == strided else 1
        out = weights.conv(f'{name}.conv{index}', out, conv_stride)
        out = weights.batch_norm(f'{name}.bn{index}', out)
        out = torch.relu(out) if index < convs else out
    if f'{name}.downsample.0' in weights:
        x = weights.conv(f'{name}.downsample.0', x, stride)
        x = weights.batch_norm(f'{name}.downsample.1', x)
    return torch.relu(out + x)


def backbone(weights, x, caffe):
    x = torch.relu(
        weights.batch_norm('backbone.bn1', weights.conv('backbone.conv1', x, 2))
    )
    x = functional.max_pool2d(x, 3, 2, 1)
    outputs = []
    for stage in range(1, 5):
        index = 0
        while f'backbone.layer{stage}.{index}.conv1' in weights:
            stride = 2 if stage > 1 and index == 0 else 1
            x = block(weights, f'backbone.layer{stage}.{index}', x, stride, caffe)
            index += 1
        outputs.append(x)
    return outputs


def neck(weights, inputs):
    """P3 to P7 from C3 to C5."""
    laterals = [
        weights.conv(f'neck.lateral_convs.{i}.conv', x) for i, x in enumerate(inputs)
    ]
    for i in (1, 0):
        size = laterals[i].shape[-2:]
        laterals[i] = laterals[i] + functional.interpolate(laterals[i + 1], size)
    levels = [
        weights.conv(f'neck.fpn_convs.{i}.conv', x) for i, x in enumerate(laterals)
    ]
    for i in (3, 4):
        levels.append(weights.conv(f'neck.fpn_convs.{i}.conv', levels[-1], 2))
    return levels


def head(weights, x, level):
    towers = {}
    for tower in ('cls_convs', 'reg_convs'):
        out = x
        for index in range(4):
            name = f'bbox_head.{tower}.{index}'
            out = weights.conv(f'{name}.conv', out)
            out = torch.relu(weights.group_norm(f'{name}.gn', out))
        towers[tower] = out
    scale = weights.state[f'bbox_head.scales.{level}.scale']
    return (
        weights.conv('bbox_head.atss_cls', towers['cls_convs']),
        weights.conv('bbox_head.atss_reg', towers['reg_convs']) * scale,
        weights.conv('bbox_head.atss_centerness', towers['reg_convs']),
    )


@torch.no_grad()
def forward(state, images, caffe=False):
    """(class logits, deltas, centerness) of each level, NCHW."""
    weights = Weights(state)
    features = backbone(weights, images, caffe)
    levels = neck(weights, features[1:])
    return [head(weights, x, level) for level, x in enumerate(levels)]
