"""Why there is no image file of the name in the annotation file."""

import json
import os
import shutil

import pytest

from atss_jax.data.missing_image import explain
from tests.conftest import ROOT
from tests.support.small_run import small_overrides


@pytest.mark.parametrize(
    ('name', 'parts'),
    [
        ('https://host.org/a/b/one.jpg?size=9', ('a URL', 'img_prefix', 'one.jpg')),
        ('s3://bucket/two.jpg', ('a URL', 'img_prefix')),
        ('my%20image.jpg', ('percent-encoded', 'img_prefix', 'my image.jpg')),
        ('/home/else/one.jpg', ('an absolute path', 'img_prefix', 'one.jpg')),
        ('C:\\data\\one.jpg', ('an absolute path', 'img_prefix', 'one.jpg')),
        ('images/one.jpg', ('relative to img_prefix', 'one.jpg')),
        ('upload/images/sub/three.jpg', ('relative to img_prefix', 'sub/three.jpg')),
    ],
)
def test_explained(tmp_path, name, parts):
    folder = f'{tmp_path}/images'
    os.makedirs(f'{folder}/sub')
    for file in ('one.jpg', 'my image.jpg', 'sub/three.jpg'):
        (tmp_path / 'images' / file).touch()
    for prefix in (folder, f'{folder}/'):
        text = explain(os.path.join(prefix, name), prefix)
        assert text.startswith('. ')
        for part in parts:
            assert part in text
    if 's3' not in name:
        there = text.rpartition('there is ')[2]
        assert os.path.isfile(there), text


@pytest.mark.parametrize('name', ['nine.jpg', 'a/nine.jpg', '100%.jpg', 'ü.jpg'])
def test_unexplained(tmp_path, name):
    assert explain(os.path.join(tmp_path, name), str(tmp_path)) == ''
    assert explain(name, '') == ''


@pytest.mark.parametrize(
    ('change', 'part'),
    [
        (lambda name: f'https://host.org/{name}', 'a URL'),
        (lambda name: name.replace('.', '%2E'), 'percent-encoded'),
        (lambda name: f'train/{name}', 'must be relative to img_prefix'),
    ],
)
def test_training_says_so(call, small_data, tmp_path, change, part):
    folder = shutil.copytree(small_data, tmp_path / 'data')
    content = json.loads((folder / 'train.json').read_text())
    for image in content['images']:
        image['file_name'] = change(image['file_name'])
    (folder / 'train.json').write_text(json.dumps(content))
    fields = small_overrides(folder).items()
    result = call(
        'train',
        f'--config={ROOT / "configs" / "atss_shapes.py"}',
        f'--workdir={tmp_path / "w"}',
        *(f'--config.{name}={value!r}' for name, value in fields),
    )
    result.refuses('No such file', part, 'img_prefix', '; there is ')
