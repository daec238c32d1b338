"""Whatever the commands write has the modes that the umask leaves."""

import os
import stat

import pytest

from tests.conftest import ROOT

UMASK = 0o027


@pytest.fixture
def umask():
    """An umask that is not the usual one, for the length of a test."""
    before = os.umask(UMASK)
    yield
    os.umask(before)


def check_modes(folder):
    """Asserts the modes of everything below a folder; gives the number of files."""
    count = 0
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            full = 0o777 if name in folders else 0o666
            mode = stat.S_IMODE(os.stat(path).st_mode)
            assert mode == full & ~UMASK, f'{path}: {mode:o}'
        count += len(files)
    return count


def test_a_training(call, small_run, tmp_path, umask):
    config = small_run.workdir / 'config.json'
    result = call('train', f'--config={config}', f'--workdir={tmp_path / "w"}')
    assert result.status == 0, result.err
    names = {path.name for path in (tmp_path / 'w').iterdir()}
    assert {'config.json', 'checkpoints', 'tensorboard'} <= names
    assert check_modes(tmp_path / 'w') > 10


def test_all_that_is_made_of_a_run(call, small_run, small_data, tmp_path, umask):
    run, out = f'--workdir={small_run.workdir}', tmp_path / 'out'
    config = small_run.workdir / 'config.json'
    for words in [
        ('eval', run, '--report', f'--out={out}/evaluation'),
        ('predict', run, small_data / 'val', f'--out={out}/detections'),
        ('atss', 'draw', 'detections', run, f'--out={out}/sheet.png'),
        ('atss', 'draw', 'data', run, f'--out={out}/data.jpg'),
        ('atss', 'convert', small_run.workdir, out / 'w.pth'),
        ('atss', 'convert', small_run.workdir, out / 'w.safetensors'),
        ('atss', 'convert', out / 'w.pth', out / 'made', f'--config={config}'),
    ]:
        result = call(*words)
        assert result.status == 0, result.err
    assert check_modes(out) > 15


def test_data_sets(call, small_data, tmp_path, umask):
    annotations, images = small_data / 'val.json', small_data / 'val'
    source = f'--ann_file={annotations}', f'--img_prefix={images}', '--split=train'
    few = '--config.data.train.num_images=2', '--config.data.val.num_images=2'
    shapes = f'--config={ROOT}/configs/atss_shapes.py', f'--out={tmp_path}/shapes'
    for words in [
        ('write-shapes', *shapes, *few),
        ('prepare-tfds', *source, f'--data_dir={tmp_path}/tfds', '--name=mine:1.0.0'),
    ]:
        result = call('atss', *words)
        assert result.status == 0, result.err
    assert check_modes(tmp_path) > 6
