"""What a run checks about its augmentation before the first step."""

import re

import pytest

from atss_jax.training import setup
from tests.support.small_run import small_config, train

AFTER = 'data.train.pipeline.after_flip'


def test_a_function_that_is_not_there_is_said_before_anything_is_made(
    small_data, tmp_path
):
    function = {'type': 'UserFunction', 'function': 'no/such/file.py:f'}
    config = small_config(small_data, {AFTER: (function,)})
    with pytest.raises(ValueError, match=rf'config\.{AFTER}: .*file\.py:f: no file'):
        train(config, str(tmp_path / 'w'))
    assert not (tmp_path / 'w').exists()


def test_the_files_of_functions_belong_to_the_stream(small_data, tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('def f(image, boxes, labels, rng): return image, boxes, labels\n')
    section = {'type': 'UserFunction', 'function': f'{file}:f'}
    config = small_config(small_data, {AFTER: (section,)})
    stream = setup.prepare(config, str(tmp_path / 'w')).stream
    assert re.fullmatch('[0-9a-f]{64}', stream['user_functions'][f'{file}:f'])
    plain = setup.prepare(small_config(small_data), str(tmp_path / 'w')).stream
    assert 'user_functions' not in plain


def test_a_mosaic_of_more_objects_than_are_kept_is_a_warning(small_data, tmp_path):
    before = {'data.train.pipeline.before_resize': ({'type': 'Mosaic'},)}

    def warning(**fields):
        config = small_config(small_data, before | fields)
        return setup.capacity_warning(setup.prepare(config, str(tmp_path / 'w')))

    text = warning(**{'data.max_boxes': 4})
    numbers = r'\d+ of the first 512 augmented images have more objects than '
    assert re.match(numbers + r'data\.max_boxes = 4, up to ([5-8]);', text)
    assert warning(**{'data.max_boxes': 8}) is None
    plain = setup.prepare(small_config(small_data), str(tmp_path / 'w'))
    assert setup.capacity_warning(plain) is None
