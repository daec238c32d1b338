"""Downloads from a local server; nothing leaves this machine."""

import hashlib

import numpy as np
import pytest

from atss_jax.weights import torchvision
from atss_jax.weights.torch_file import pth
from tests.support.file_server import serving

NAMES = ['conv1.weight', 'bn1.weight', 'bn1.num_batches_tracked']


@pytest.fixture
def server(monkeypatch):
    with serving(monkeypatch) as server:
        monkeypatch.setattr(torchvision, 'PYTORCH_URL', f'{server.url}/models')
        monkeypatch.setattr(torchvision, 'OPENMMLAB_URL', f'{server.url}/third_party')
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv('ATSS_JAX_CACHE', str(tmp_path / 'cache'))
    return tmp_path / 'cache'


@pytest.fixture
def content(tmp_path):
    """A small checkpoint: the content that the server has."""
    weights = {name: np.ones(3, 'f4') for name in NAMES[:2]}
    pth.save(tmp_path / 'content', weights | {'fc.bias': np.ones(2, 'f4')})
    return (tmp_path / 'content').read_bytes()


@pytest.fixture
def resnet50(server, content, monkeypatch):
    """Puts `content` behind 'torchvision://resnet50'; its file name."""
    name = f'resnet50-{hashlib.sha256(content).hexdigest()[:8]}.pth'
    monkeypatch.setitem(torchvision.TORCHVISION_FILES, 'resnet50', name)
    server.files[f'/models/{name}'] = content
    return name


class TestResolve:
    def test_downloads_once(self, server, cache, content, resnet50):
        for _ in range(2):
            path = torchvision.resolve('torchvision://resnet50')
            assert path == cache / resnet50
            assert path.read_bytes() == content
        assert server.requests == [(f'/models/{resnet50}', None)]
        assert not list(cache.glob('*.part'))

    def test_cache_dir_goes_before_the_environment(self, cache, tmp_path, resnet50):
        path = torchvision.resolve('torchvision://resnet50', tmp_path / 'other')
        assert path == tmp_path / 'other' / resnet50
        assert not cache.exists()

    @pytest.mark.parametrize('ranges', [True, False])
    def test_resumes(self, server, cache, content, resnet50, ranges):
        server.ranges = ranges
        cache.mkdir()
        (cache / f'{resnet50}.part').write_bytes(content[:100])
        path = torchvision.resolve('torchvision://resnet50')
        assert path.read_bytes() == content
        assert server.requests == [(f'/models/{resnet50}', 'bytes=100-')]

    def test_a_broken_connection_is_resumed(self, server, cache, content, resnet50):
        server.break_after = 150
        with pytest.raises(ConnectionError, match=f'after 150 of {len(content)} bytes'):
            torchvision.resolve('torchvision://resnet50')
        assert (cache / f'{resnet50}.part').read_bytes() == content[:150]
        assert not (cache / resnet50).exists()
        server.break_after = None
        path = torchvision.resolve('torchvision://resnet50')
        assert path.read_bytes() == content

    def test_a_whole_part_is_finished(self, server, cache, content, resnet50):
        cache.mkdir()
        (cache / f'{resnet50}.part').write_bytes(content)
        assert torchvision.resolve('torchvision://resnet50').read_bytes() == content

    @pytest.mark.parametrize('had', [b'', b'other beginning'])
    def test_wrong_hash(self, server, cache, content, resnet50, had):
        server.files[f'/models/{resnet50}'] = content + b'!'
        if had:
            cache.mkdir()
            (cache / f'{resnet50}.part').write_bytes(had)
        with pytest.raises(ValueError, match='SHA-256') as error:
            torchvision.resolve('torchvision://resnet50')
        assert resnet50[9:17] in str(error.value)
        assert not (cache / resnet50).exists()
        assert not (cache / f'{resnet50}.part').exists()

    def test_wrong_file_put_into_the_cache(self, cache, resnet50):
        cache.mkdir()
        (cache / resnet50).write_bytes(b'<html>')
        with pytest.raises(ValueError, match='delete it'):
            torchvision.resolve('torchvision://resnet50')

    def test_no_network(self, cache, monkeypatch):
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        # Port 9 of the own machine: nothing listens there.
        monkeypatch.setattr(torchvision, 'PYTORCH_URL', 'http://127.0.0.1:9/models')
        with pytest.raises(ConnectionError) as error:
            torchvision.resolve('torchvision://resnet50')
        assert 'http://127.0.0.1:9/models/resnet50-0676ba61.pth' in str(error.value)
        assert str(cache / 'resnet50-0676ba61.pth') in str(error.value)

    def test_not_found(self, server, cache):
        with pytest.raises(ConnectionError, match='404'):
            torchvision.resolve('open-mmlab://detectron2/resnet50_caffe')
        assert server.requests == [('/third_party/resnet50_msra-5891d200.pth', None)]

    def test_address(self, server, cache):
        server.files['/zoo/atss.pth?x=1'] = b'content'
        path = torchvision.resolve(f'{server.url}/zoo/atss.pth?x=1')
        assert path == cache / 'atss.pth'
        assert path.read_bytes() == b'content'

    def test_local_path(self, server, cache, tmp_path):
        file = tmp_path / 'resnet50-00000000.pth'
        file.write_bytes(b'mine')
        assert torchvision.resolve(file) == file
        assert torchvision.resolve(str(file)) == file
        assert server.requests == []

    def test_no_such_path(self, tmp_path):
        with pytest.raises(FileNotFoundError, match=r'address.*torchvision://resnet50'):
            torchvision.resolve(tmp_path / 'missing.pth')

    @pytest.mark.parametrize(
        'name', ['torchvision://resnet51', 'open-mmlab://x', 'a://b']
    )
    def test_unknown_name(self, name):
        with pytest.raises(ValueError, match=f"'{name}'; expected"):
            torchvision.resolve(name)

    def test_addresses(self):
        assert [
            torchvision._url(name) for name in torchvision._known_names()[2:8:5]
        ] == [
            'https://download.pytorch.org/models/resnet50-0676ba61.pth',
            'https://download.openmmlab.com/pretrain/third_party/'
            'resnet50_msra-5891d200.pth',
        ]


class TestBackboneWeights:
    def test_exactly_the_wanted(self, cache, resnet50):
        weights = torchvision.backbone_weights('torchvision://resnet50', NAMES)
        assert set(weights) == set(NAMES)
        np.testing.assert_array_equal(weights['conv1.weight'], np.ones(3))
        counter = weights['bn1.num_batches_tracked']
        assert counter == 0 and counter.dtype == np.int64 and counter.shape == ()

    def test_counters_may_be_left_over(self, tmp_path):
        content = {name: np.ones((), 'i8') for name in NAMES}
        pth.save(tmp_path / 'a.pth', content)
        weights = torchvision.backbone_weights(tmp_path / 'a.pth', NAMES[:2])
        assert set(weights) == set(NAMES[:2])

    def test_missing_and_left_over(self, tmp_path):
        pth.save(
            tmp_path / 'a.pth', {'conv1.weight': np.ones(1), 'conv1.bias': np.ones(1)}
        )
        with pytest.raises(
            ValueError, match=r'lacks bn1.weight; .* conv1.bias'
        ) as error:
            torchvision.backbone_weights(tmp_path / 'a.pth', NAMES)
        assert 'a.pth' in str(error.value)

    def test_long_lists_are_cut(self, tmp_path):
        pth.save(tmp_path / 'a.pth', {'conv1.weight': np.ones(1)})
        wanted = ['conv1.weight', *(f'layer1.{i}.conv1.weight' for i in range(30))]
        with pytest.raises(ValueError, match=r'and 18 more; it also has nothing'):
            torchvision.backbone_weights(tmp_path / 'a.pth', wanted)

    def test_caffe_files_hold_biases_that_mmdet_drops(self, tmp_path):
        content = {name: np.ones(1) for name in ('conv1.weight', 'conv1.bias')}
        content['layer1.0.downsample.0.bias'] = np.ones(1)
        file = tmp_path / 'resnet50_msra-5891d200.pth'
        pth.save(file, content)
        assert list(torchvision.backbone_weights(file, ['conv1.weight'])) == [
            'conv1.weight'
        ]
        pth.save(file, content | {'bn1.bias': np.ones(1)})
        with pytest.raises(ValueError, match=r'also has bn1\.bias$'):
            torchvision.backbone_weights(file, ['conv1.weight'])
