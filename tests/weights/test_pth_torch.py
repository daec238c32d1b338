"""Checkpoints against torch itself: what it wrote we read, what we write it reads."""

import collections

import ml_dtypes
import numpy as np
import pytest

from atss_jax.weights.torch_file import pth
from tests.support import pickles

torch = pytest.importorskip('torch')
pytestmark = pytest.mark.torch

DTYPES = (
    *('float32', 'float64', 'float16', 'bfloat16', 'complex64', 'complex128'),
    *('int64', 'int32', 'int16', 'int8', 'uint8', 'bool'),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / 'weights.pth'


@pytest.fixture(params=['zip', 'legacy'])
def write(request, file):
    def write(obj):
        torch.save(obj, file, _use_new_zipfile_serialization=request.param == 'zip')
        return file

    return write


def values(dtype: str):
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(3, 4, 5, generator=generator) * 100
    return numbers.abs().to(getattr(torch, dtype))


def array(tensor) -> np.ndarray:
    """Bit for bit, also where NumPy has no such type."""
    if tensor.dtype == torch.bfloat16:
        return tensor.detach().view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.detach().numpy()


def assert_same(actual, expected):
    """Structures of the same content; tensors and arrays equal bit for bit."""
    if isinstance(expected, torch.Tensor):
        expected = array(expected)
        assert actual.dtype == expected.dtype
        assert actual.shape == expected.shape
        assert actual.tobytes() == expected.tobytes()
    elif isinstance(expected, dict):
        assert list(actual) == list(expected)
        for key in expected:
            assert_same(actual[key], expected[key])
    elif isinstance(expected, list | tuple):
        assert len(actual) == len(expected)
        for pair in zip(actual, expected, strict=True):
            assert_same(*pair)
    else:
        assert actual == expected


class TestReads:
    @pytest.mark.parametrize('dtype', DTYPES)
    def test_dtypes(self, write, dtype):
        tensor = values(dtype)
        content = {'w': tensor, 'scalar': tensor[0, 0, 0], 'empty': tensor[:0]}
        assert_same(pth.load(write(content)), content)

    def test_views(self, write):
        base = values('float32')
        content = {
            'base': base,
            'row': base[1],
            'transposed': base.permute(2, 0, 1),
            'strided': base[:, 1:4:2, ::3],
            'expanded': base[0, 0, :1].expand(4, 5),
            'channels_last': values('float32')[None].contiguous(
                memory_format=torch.channels_last
            ),
        }
        loaded = pth.load(write(content))
        assert_same(loaded, content)
        assert np.shares_memory(loaded['base'], loaded['transposed'])

    def test_parameters_and_a_module(self, write):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        content = {
            'state_dict': module.state_dict(),
            'parameter': torch.nn.Parameter(values('float32')),
            'size': torch.Size([1, 2]),
            'device': 'cpu',
        }
        path = write(content)
        assert_same(pth.load(path), content)
        assert_same(pth.state_dict(path), dict(module.state_dict()))

    def test_optimizer_and_scheduler(self, write):
        module = torch.nn.Linear(4, 2)
        optimizer = torch.optim.SGD(module.parameters(), 0.1, 0.9, weight_decay=1e-4)
        scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [8, 11])
        for _ in range(2):
            optimizer.zero_grad()
            module(torch.ones(3, 4)).square().sum().backward()
            optimizer.step()
        content = {
            'meta': {'epoch': 1, 'best': np.float64(0.25), 'mean': np.arange(3.0)},
            'state_dict': module.state_dict(),
            'optimizer': optimizer.state_dict(),
        }
        path = write(content | {'scheduler': scheduler.state_dict()})
        loaded = pth.load(path)
        assert loaded.pop('scheduler')['milestones'] == collections.Counter([8, 11])
        np.testing.assert_array_equal(loaded['meta'].pop('mean'), np.arange(3.0))
        del content['meta']['mean']
        assert_same(loaded, content)
        assert loaded['optimizer']['state'][0]['momentum_buffer'].any()

    def test_a_whole_module_is_refused(self, write):
        path = write(torch.nn.Linear(2, 2))
        with pytest.raises(
            ValueError, match=r'torch\.nn\.modules\.linear\.Linear|stor'
        ):
            pth.load(path)

    @pytest.mark.parametrize('protocol', [2, 3, 4, 5])
    def test_pickle_protocols(self, file, protocol):
        content = {'w': values('float32'), 'text': 'é', 'numpy': np.float32(1.5)}
        for new in (True, False):
            torch.save(
                content,
                file,
                pickle_protocol=protocol,
                _use_new_zipfile_serialization=new,
            )
            assert_same(pth.load(file), content)

    @pytest.mark.parametrize(
        'body',
        [
            pickles.OLD_PARAMETER,
            pickles.tensor('0', 'Float', 12, 1, (2, 2), (1, 2), [('v', 4, 6)]),
            pickles.tensor('0', 'Float', 12, 1, (2, 2), (1, 2), [None]),
        ],
    )
    def test_old_files_written_by_hand(self, file, body):
        """torch takes them too, so the tests that need no torch are of real formats."""
        storages = {'0': np.arange(12, dtype=np.float32)}
        pickles.write('legacy', file, body, storages)
        expected = torch.load(file, weights_only=True, map_location='cpu')
        assert_same(pth.load(file), expected)

    def test_torchscript_is_refused(self, file):
        torch.jit.script(torch.nn.Linear(2, 2)).save(str(file))
        with pytest.raises(ValueError, match='TorchScript'):
            pth.load(file)


class TestTorchReads:
    @pytest.mark.parametrize('mmap', [False, True])
    def test_what_we_write(self, file, mmap):
        tensors = {dtype: values(dtype) for dtype in DTYPES}
        weights = {name: array(tensor) for name, tensor in tensors.items()}
        weights['transposed'] = weights['float32'].T
        weights['scalar'] = np.array(7)
        weights['empty'] = np.zeros((0, 3), np.float32)
        weights['ones'] = np.ones((1, 4, 1), np.float32)
        meta = {'a': [1, -(2**40), 2**100, 1.5, None, True], 'é': ('x', {3: 'y'})}
        content = {'state_dict': collections.OrderedDict(weights), 'meta': meta}
        pth.save(file, content)
        loaded = torch.load(file, weights_only=True, mmap=mmap)
        assert loaded['meta'] == meta
        assert type(loaded['state_dict']) is collections.OrderedDict
        assert list(loaded['state_dict']) == list(weights)
        for name, expected in weights.items():
            tensor = loaded['state_dict'][name]
            assert tensor.is_contiguous() and not tensor.requires_grad
            assert array(tensor).dtype == expected.dtype
            assert array(tensor).shape == expected.shape
            assert array(tensor).tobytes() == expected.tobytes()

    def test_load_state_dict(self, file):
        module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        arrays = {name: array(value) for name, value in module.state_dict().items()}
        pth.save(file, {'state_dict': arrays})
        other = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
        other.load_state_dict(torch.load(file, weights_only=True)['state_dict'])
        assert_same(
            {name: array(value) for name, value in other.state_dict().items()},
            dict(module.state_dict()),
        )

    def test_round_trip_through_both(self, file):
        content = {'w': values('bfloat16'), 'x': {'y': [values('bool')]}}
        torch.save(content, file)
        pth.save(file, pth.load(file))
        assert_same(pth.load(file), content)
        torch.save(torch.load(file, weights_only=True), file)
        assert_same(pth.load(file), content)
