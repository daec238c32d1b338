"""Weights by path, name and address, from a local server."""

import hashlib
import sys
import types

import pytest

from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.weights import model_zoo
from atss_jax.weights.address import is_address, locate, similar_model
from tests.support.file_server import serving
from tests.support.zoo import Zoo

CONTENT = b'weights' * 100
R50 = 'atss_r50_fpn_1x_coco'


@pytest.fixture
def zoo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with serving(monkeypatch) as server:
        zoo = Zoo(server, tmp_path, monkeypatch)
        zoo.add(R50, 'atss_r50_1x', CONTENT)
        yield zoo


# Models of the zoo -------------------------------------------------------------------


@pytest.mark.parametrize('source', [R50, f'mmdet://{R50}'])
def test_a_model_is_downloaded_when_it_is_first_needed(zoo, source):
    weights = locate(source)
    assert weights.is_file and weights.config == 'atss_r50_1x'
    assert weights.classes == COCO_CLASSES
    assert zoo.downloads == []
    for _ in range(2):
        with open(weights.fetch(), 'rb') as file:
            assert file.read() == CONTENT
    assert len(zoo.downloads) == 1


def test_its_address_means_the_model(zoo):
    (address,) = zoo.models[R50]['addresses']
    weights = locate(address)
    assert weights.model == model_zoo.find(R50)
    assert weights.fetch() == locate(R50).fetch()


def test_a_path_goes_before_a_name(zoo, tmp_path):
    (tmp_path / R50).mkdir()
    weights = locate(R50)
    assert (weights.model, weights.is_file) == (None, False)
    assert locate(f'mmdet://{R50}').model is not None


def test_a_download_that_is_cut_off_is_resumed(zoo):
    zoo.server.break_after = 300
    with pytest.raises(ConnectionError, match='after 300 of 700 bytes'):
        locate(R50).fetch()
    zoo.server.break_after = None
    with open(locate(R50).fetch(), 'rb') as file:
        assert file.read() == CONTENT
    assert [asked for _, asked in zoo.server.requests] == [None, 'bytes=300-']


def test_a_wrong_hash_is_refused_and_the_file_deleted(zoo):
    (path,) = zoo.server.files
    zoo.server.files[path] = CONTENT.replace(b'w', b'W', 1)
    with pytest.raises(ValueError, match='removed what was downloaded'):
        locate(R50).fetch()
    assert [file.suffix for file in zoo.cache.iterdir()] in ([], ['.lock'])


def test_without_a_network(zoo):
    """The file, every address, and where to put it."""
    fields = zoo.models[R50]
    name = fields['addresses'][0].rpartition('/')[2]
    fields['addresses'] = [f'http://127.0.0.1:9/{mirror}/{name}' for mirror in 'ab']
    zoo.write()
    with pytest.raises(ConnectionError) as error:
        locate(R50).fetch()
    for part in (name, *fields['addresses'], f'put the file at {zoo.cache / name}'):
        assert part in str(error.value)
    (zoo.cache / name).write_bytes(CONTENT)
    assert locate(R50).fetch() == str(zoo.cache / name)


# Other weights -----------------------------------------------------------------------


def test_paths(tmp_path):
    assert locate('run').is_file is False
    assert locate(tmp_path / 'x.pth').is_file
    assert locate('~/x.safetensors').source.startswith('/')
    assert (
        locate('x.pth').fetch() == 'x.pth'
    )  # whoever reads it says that it is not there
    assert not is_address('x.pth') and is_address('https://a/x.pth')


def test_any_address(zoo):
    zoo.server.files['/mine/epoch_12.pth?download=true'] = b'mine'
    zoo.server.files['/other/epoch_12.pth'] = b'other'
    contents = []
    for address in ('/mine/epoch_12.pth?download=true', '/other/epoch_12.pth'):
        weights = locate(zoo.server.url + address)
        assert weights.is_file and weights.config is None and weights.classes is None
        with open(weights.fetch(), 'rb') as file:
            contents.append(file.read())
    assert contents == [b'mine', b'other']


def test_the_digits_in_the_name_are_checked(zoo):
    digest = hashlib.sha256(b'mine').hexdigest()[:8]
    for name, content in ((f'a-{digest}.pth', b'mine'), (f'b-{digest}.pth', b'no')):
        zoo.server.files[f'/{name}'] = content
    assert locate(f'{zoo.server.url}/a-{digest}.pth').fetch()
    with pytest.raises(ValueError, match=f'expected {digest}'):
        locate(f'{zoo.server.url}/b-{digest}.pth').fetch()


def test_what_is_no_address_of_weights(zoo):
    with pytest.raises(ValueError, match=r'expected a path, mmdet://NAME, https://'):
        locate('s3://bucket/x.pth')
    with pytest.raises(ValueError, match=r"\.pth, .*its name is 'page.html'"):
        locate(f'{zoo.server.url}/page.html').fetch()
    with pytest.raises(ValueError, match="no model named 'x'"):
        locate('mmdet://x')
    assert zoo.downloads == []


def test_similar_models():
    assert similar_model('atss_r50_fpn_1x').endswith(f"the model '{R50}'?")
    assert similar_model('work_dirs/mine') == ''


# Hugging Face ------------------------------------------------------------------------


class HTTPError(Exception):
    """As of httpx: no OSError."""


class HfHubHTTPError(HTTPError, OSError):
    pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """In place of huggingface_hub; `hub.files` by repository and revision."""
    module = types.ModuleType('huggingface_hub')
    module.errors = types.ModuleType('huggingface_hub.errors')
    module.errors.HfHubHTTPError = HfHubHTTPError
    module.files = {('me/atss', None): ['README.md', 'atss.safetensors']}
    module.error = None

    def list_repo_files(repository, revision=None):
        if module.error:
            raise module.error
        return module.files[repository, revision]

    def hf_hub_download(repository, file, revision=None):
        if module.error:
            raise module.error
        assert file in module.files[repository, revision]
        return str(tmp_path / file)

    module.list_repo_files, module.hf_hub_download = list_repo_files, hf_hub_download
    monkeypatch.setitem(sys.modules, 'huggingface_hub', module)
    monkeypatch.setitem(sys.modules, 'huggingface_hub.errors', module.errors)
    return module


def test_the_only_weights_of_a_repository(hub, tmp_path):
    weights = locate('hf://me/atss')
    assert weights.is_file and weights.config is None
    assert weights.fetch() == str(tmp_path / 'atss.safetensors')
    assert locate('hf://me/atss/').fetch() == str(tmp_path / 'atss.safetensors')


def test_a_file_of_a_repository_and_a_revision(hub, tmp_path):
    hub.files['me/atss', 'v2'] = ['a/x.pth', 'a/y.pth']
    fetched = locate('hf://me/atss@v2/a/y.pth').fetch()
    assert fetched == str(tmp_path / 'a' / 'y.pth')


def test_which_weights_of_several(hub):
    hub.files['me/atss', None] = ['x.pth', 'y.safetensors', 'z.txt']
    with pytest.raises(ValueError, match='2 files of weights: name one of them'):
        locate('hf://me/atss').fetch()
    hub.files['me/atss', None] = ['z.txt']
    with pytest.raises(ValueError, match='0 files of weights'):
        locate('hf://me/atss').fetch()
    with pytest.raises(ValueError, match=r"its name is 'z.txt'"):
        locate('hf://me/atss/z.txt').fetch()


@pytest.mark.parametrize('source', ['hf://', 'hf://atss', 'hf://@v1/x', 'hf:///x/y'])
def test_what_is_no_address_of_a_repository(hub, source):
    with pytest.raises(ValueError, match='expected hf://OWNER/REPOSITORY'):
        locate(source).fetch()


@pytest.mark.parametrize('error', [HTTPError('offline'), OSError('offline')])
@pytest.mark.parametrize('file', ['', '/atss.safetensors'])
def test_a_hub_that_cannot_be_reached(hub, error, file):
    hub.error = error
    with pytest.raises(ConnectionError, match='offline\nWithout a network, fetch'):
        locate(f'hf://me/atss{file}').fetch()


def test_the_extra_is_named_where_the_library_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    weights = locate('hf://me/atss')  # imports nothing
    for step in (weights.check, weights.fetch):
        with pytest.raises(ValueError, match=r"pip install 'atss-jax\[hub\]'"):
            step()


@pytest.mark.parametrize(
    ('source', 'part'),
    [
        ('hf://me/atss', "pip install 'atss-jax[hub]'"),
        ('hf://me/atss/notes.txt', "its name is 'notes.txt'"),
        ('hf://atss', 'expected hf://OWNER/REPOSITORY'),
        ('https://x.org/notes.txt', "its name is 'notes.txt'"),
    ],
)
def test_what_is_wrong_comes_before_what_is_missing(source, part, monkeypatch, call):
    """A config for weights that cannot be fetched would be in vain."""
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    assert call('eval', f'--model={source}').refuses(part)
    assert call('atss', 'convert', source, 'workdir').refuses(part)
    result = call('eval', '--model=https://x.org/atss.pth')
    assert result.refuses('give the config of its model with --model_config')
