"""`write-shapes`: the files have what the generator makes."""

import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.data.coco.dataset import CocoDataset
from tests.conftest import ROOT

SHAPES = 'configs/atss_shapes.py'
FEW = {'data.train.num_images': 5, 'data.val.num_images': 3}


@pytest.fixture
def write(call, tmp_path):
    """Writes a few images to `tmp_path / 'my data'`."""
    flags = [f'--config.{name}={value}' for name, value in FEW.items()]

    def run():
        out = f'--out={tmp_path / "my data"}'
        return call('atss', 'write-shapes', f'--config={SHAPES}', out, *flags)

    return run


def test_read_as_coco_it_is_the_generated_set(write, tmp_path):
    result = write()
    assert result.status == 0, result.err
    assert 'train.json and 5 images' in result.out
    data = build_experiment(load_config(str(ROOT / SHAPES), FEW)).data
    for split, count in (('train', 5), ('val', 3)):
        source = data[split].open()
        folder = tmp_path / 'my data' / split
        files = CocoDataset(f'{folder}.json', str(folder))
        assert len(files.records) == count == len(list(folder.iterdir()))
        assert files.classes == source.classes
        assert files.records.digest() == source.records.digest()
        for k in range(count):
            written = files.read_image(files.records[k])
            np.testing.assert_array_equal(written, source.read_image(source.records[k]))


def test_nothing_is_overwritten(write, tmp_path):
    (tmp_path / 'my data' / 'val').mkdir(parents=True)
    write().refuses(tmp_path / 'my data' / 'val', 'already exists', '--out')
    assert not (tmp_path / 'my data' / 'train').exists()


def test_a_config_of_files(call, tmp_path):
    flags = '--config=configs/atss_r50_1x.py', f'--out={tmp_path / "out"}'
    result = call('atss', 'write-shapes', *flags)
    result.refuses("data.train.type = 'CocoDataset'", 'ShapesDataset')
    assert not (tmp_path / 'out').exists()
