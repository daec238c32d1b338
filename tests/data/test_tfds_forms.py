"""`atss prepare-tfds --data`: data sets of every form as TFDS data sets."""

import numpy as np
import pytest

from atss_jax.data.forms.dataset import AutoDataset
from atss_jax.data.tfds.dataset import TFDSDataset
from tests.support.every_form import WRITERS

NAME = 'mine:2.0.1'
FORMS = [
    pytest.param(name, marks=pytest.mark.hf if name == 'Parquet' else ())
    for name in WRITERS
]


@pytest.mark.parametrize('form', FORMS)
def test_a_data_set_of_any_form(call, small_data, tmp_path, form):
    """The prepared set has the records and images of the folder."""
    WRITERS[form](small_data, tmp_path / 'my data')
    flags = f'--data_dir={tmp_path / "sets"}', f'--name={NAME}'
    for split in ('train', 'validation'):
        words = f'--data={tmp_path / "my data"}', f'--split={split}'
        result = call('atss', 'prepare-tfds', *words, *flags)
        assert result.status == 0, result.err
        assert f'prepared split {split} in {tmp_path / "sets"}' in result.out
    for split, ours in (('train', 'train'), ('validation', 'val')):
        expected = AutoDataset(str(tmp_path / 'my data'), ours, test_mode=True)
        source = TFDSDataset(str(tmp_path / 'sets'), NAME, split, test_mode=True)
        assert source.classes == expected.classes
        assert source.records.digest() == expected.records.digest()
        assert (
            source.ground_truth()['annotations']
            == (expected.ground_truth()['annotations'])
        )
        image = source.read_image(source.records[3])
        np.testing.assert_array_equal(image, expected.read_image(expected.records[3]))


def test_a_data_set_without_splits(call, small_data, tmp_path):
    """All of it becomes the split that is named; --data_split names another one."""
    sets = tmp_path / 'sets'
    flags = f'--data={small_data / "val.json"}', f'--data_dir={sets}', f'--name={NAME}'
    assert call('atss', 'prepare-tfds', *flags, '--split=minival').status == 0
    source = TFDSDataset(str(sets), NAME, 'minival', test_mode=True)
    assert len(source.records) == 9
    words = 'atss', 'prepare-tfds', *flags, '--split=more'
    call(*words, '--data_split=train').refuses('is not divided into splits')
    assert call(*words, '--data_split=all').status == 0


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ((), '--ann_file is required, or --data in place of both'),
        (('--ann_file=x',), '--img_prefix is required'),
        (('--data=x', '--ann_file=x'), '--ann_file does not go with --data'),
        (('--data=x', '--img_prefix=x'), '--img_prefix does not go with --data'),
        (
            ('--ann_file=x', '--img_prefix=x', '--data_split=val'),
            '--data_split goes with --data',
        ),
    ],
)
def test_flags_that_do_not_go_together(call, tmp_path, words, message):
    result = call('atss', 'prepare-tfds', f'--data_dir={tmp_path}', *words)
    assert result.status == 2 and message in result.err
    assert not any(tmp_path.iterdir())


def test_a_missing_image_of_another_form(call, small_data, tmp_path):
    WRITERS['COCO'](small_data, tmp_path / 'd')
    missing = next(iter((tmp_path / 'd' / 'val2017').iterdir()))
    missing.unlink()
    flags = f'--data={tmp_path / "d"}', f'--data_dir={tmp_path / "sets"}'
    result = call('atss', 'prepare-tfds', *flags, '--split=validation')
    result.refuses(missing.name, 'no such file', '1 of 9 images are missing')
