"""Momentum and weights exchanged with torch itself, through mmdet's checkpoints."""

import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from atss_jax.models.atss_head import ATSSHead
from atss_jax.models.detector import ATSS
from atss_jax.models.fpn import FPN
from atss_jax.models.resnet import ResNet, stage_channels
from atss_jax.weights import mmdet, mmdet_checkpoint, safetensors
from tests.support.recipes import relative_error
from tests.support.small import random_variables

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch


class Block(torch.nn.Module):
    """Children by name, in the order of mmdet's modules."""

    def __init__(self, **children):
        super().__init__()
        for name, child in children.items():
            self.add_module(name, child)

    def forward(self, x):
        for child in self.children():
            x = child(x)
        return x


@pytest.fixture
def detector():
    """Named as mmdet's parts; its first convolution is frozen."""
    torch.manual_seed(0)
    convs = [Block(conv=torch.nn.Conv2d(4, 4, 1)) for _ in range(2)]
    model = Block(
        backbone=Block(
            conv1=torch.nn.Conv2d(3, 4, 3, bias=False), bn1=torch.nn.BatchNorm2d(4)
        ),
        neck=Block(lateral_convs=torch.nn.Sequential(*convs)),
        bbox_head=Block(atss_cls=torch.nn.Conv2d(4, 2, 1)),
    )
    model.backbone.conv1.weight.requires_grad_(False)
    return model


def step(model, optimizer, seed):
    generator = torch.Generator().manual_seed(seed)
    optimizer.zero_grad()
    model(torch.randn(2, 3, 8, 8, generator=generator)).square().mean().backward()
    optimizer.step()


@pytest.mark.parametrize('with_frozen', [True, False])
def test_momentum_there_and_back(detector, tmp_path, with_frozen):
    """torch's next step is the same after a journey through our checkpoint."""
    trained = [n for n, p in detector.named_parameters() if p.requires_grad]
    given = [p for p in detector.parameters() if with_frozen or p.requires_grad]
    optimizer = torch.optim.SGD(given, 0.1, 0.9, weight_decay=1e-4)
    for seed in range(3):
        step(detector, optimizer, seed)
    content = {
        'meta': {'iter': 3, 'CLASSES': ('a', 'b')},
        'state_dict': detector.state_dict(),
        'optimizer': optimizer.state_dict(),
    }
    torch.save(content, tmp_path / 'a.pth')
    found = mmdet_checkpoint.load(tmp_path / 'a.pth', True, trained)
    assert list(found.momentum) == trained and found.classes == ('a', 'b')
    for name, parameter in detector.named_parameters():
        if name in trained:
            buffer = optimizer.state[parameter]['momentum_buffer'].numpy()
            np.testing.assert_array_equal(found.momentum[name], buffer)

    mmdet_checkpoint.save(tmp_path / 'b.pth', found)
    back = torch.load(tmp_path / 'b.pth', weights_only=True)
    everything = torch.optim.SGD(detector.parameters(), 0.5)
    everything.load_state_dict(back['optimizer'])
    step(detector, optimizer, 9)
    expected = {name: p.clone() for name, p in detector.state_dict().items()}
    detector.load_state_dict(back['state_dict'])
    step(detector, everything, 9)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('one_group', [True, False])
def test_adamw_there_and_back(detector, tmp_path, one_group):
    """As above, with all parameters in one group, or each trained one in its own."""
    trained = {n: p for n, p in detector.named_parameters() if p.requires_grad}

    def optimizer_of(lr):
        if one_group:
            return torch.optim.AdamW(detector.parameters(), lr, eps=1e-6)
        groups = [
            {'params': [p], 'weight_decay': 0.1 * i}
            for i, p in enumerate(trained.values())
        ]
        return torch.optim.AdamW(groups, lr, eps=1e-6)

    optimizer = optimizer_of(0.1)
    for seed in range(3):
        step(detector, optimizer, seed)
    content = {
        'meta': {'iter': 3},
        'state_dict': detector.state_dict(),
        'optimizer': optimizer.state_dict(),
    }
    torch.save(content, tmp_path / 'a.pth')
    found = mmdet_checkpoint.load(tmp_path / 'a.pth', True, trained)
    assert list(found.momentum) == list(found.squares) == list(trained)
    assert found.updates == 3 and (found.settings is None) == one_group
    for name, parameter in trained.items():
        square = optimizer.state[parameter]['exp_avg_sq'].numpy()
        np.testing.assert_array_equal(found.squares[name], square)

    mmdet_checkpoint.save(tmp_path / 'b.pth', found)
    back = torch.load(tmp_path / 'b.pth', weights_only=True)
    other = optimizer_of(0.5)
    other.load_state_dict(back['optimizer'])
    step(detector, optimizer, 9)
    expected = {name: p.clone() for name, p in detector.state_dict().items()}
    detector.load_state_dict(back['state_dict'])
    step(detector, other, 9)
    for name, value in detector.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('dtype', ['float32', 'float16', 'bfloat16', 'int64', 'bool'])
def test_safetensors_with_torch(tmp_path, dtype):
    import safetensors.torch as theirs

    file = tmp_path / 'w.safetensors'
    tensor = torch.arange(6).reshape(2, 3).to(getattr(torch, dtype))
    theirs.save_file({'x': tensor}, file)
    found = safetensors.load(file)[0]
    assert str(found['x'].dtype) == dtype
    safetensors.save(file, {'x': found['x'], 't': found['x'].T})
    back = theirs.load_file(file)
    assert torch.equal(back['x'], tensor) and torch.equal(back['t'], tensor.T)
    assert back['x'].dtype == tensor.dtype


@pytest.mark.parametrize(
    ('depth', 'style'), [(18, 'pytorch'), (50, 'pytorch'), (50, 'caffe')]
)
def test_our_weights_in_torch_give_our_outputs(tmp_path, depth, style):
    """Random weights to a .pth, read by torch, through a forward pass of its own.

    In float64. All levels have the same weights, so errors are relative to the largest
    output of all: the map of one pixel has a centerness near 0, of which float32 is
    2e-5 away on some processors, ours and torch's.
    """
    from tests.support import torch_atss

    neck = FPN(in_channels=stage_channels(depth))
    model = ATSS(ResNet(depth=depth, style=style), neck, ATSSHead(7))
    variables = random_variables(model, seed=depth)
    for name, value in flatten_dict(variables).items():
        if name[-2:] == ('atss_reg', 'kernel'):
            value *= 0.1
    weights = mmdet.to_state_dict(variables)
    mmdet_checkpoint.save(tmp_path / 'w.pth', mmdet_checkpoint.Checkpoint(weights))
    state = torch.load(tmp_path / 'w.pth', weights_only=True)['state_dict']
    image = np.random.default_rng(0).standard_normal((1, 64, 96, 3), np.float32)
    state = {
        name: v.double() if v.is_floating_point() else v for name, v in state.items()
    }
    given = torch.from_numpy(image.transpose(0, 3, 1, 2).astype(np.float64))
    expected = torch_atss.forward(state, given, style == 'caffe')
    sizes = np.array([[64, 96]], np.int32)
    outputs = jax.jit(model.apply)(variables, image, sizes)
    for levels, references in zip(outputs, zip(*expected, strict=True), strict=True):
        references = [x.numpy().transpose(0, 2, 3, 1) for x in references]
        assert [x.shape for x in levels] == [x.shape for x in references]
        ours, theirs = (
            np.concatenate([np.ravel(x) for x in arrays])
            for arrays in (levels, references)
        )
        assert relative_error(ours, theirs) < 1e-5
