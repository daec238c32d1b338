"""Functions of users: what they get, and what is said about bad ones."""

import concurrent.futures
import sys

import numpy as np
import pytest

from atss_jax.config import load_config, to_json
from atss_jax.data.augment import user_function
from atss_jax.data.augment.objects import Objects
from atss_jax.data.augment.user_function import (
    BadFunction,
    UserFunction,
    Where,
    digest,
    digests,
    load,
    name_of,
)
from atss_jax.training import workdir as workdirs
from tests.conftest import ROOT
from tests.data.test_augment_stream import batches_with
from tests.support import user_functions
from tests.support.batches import Source

MODULE = 'tests.support.user_functions'
FILE = str(ROOT / 'tests' / 'support' / 'user_functions.py')
IMAGE = np.full((20, 30, 3), 100, np.uint8)
OBJECTS = Objects(
    np.array([[1, 2, 10, 12], [5, 5, 30, 20]], np.float32),
    np.array([1, 0], np.int32),
    np.array([False, True]),
)


def call(name, image=IMAGE, objects=OBJECTS):
    where = Where(step=6, row=2, record=Source().records[4], classes=2)
    function = UserFunction(f'{MODULE}:{name}')
    return function.call(image, objects, np.random.default_rng(0), where)


def test_a_function_gets_crowd_regions_as_a_label(monkeypatch):
    got = []

    def function(image, boxes, labels, rng):
        got.extend([image, boxes, labels, rng])
        return image, boxes[::-1], labels[::-1]

    monkeypatch.setattr(user_functions, 'seen', function, raising=False)
    load.cache_clear()
    image, objects = call('seen')
    assert got[2].tolist() == [1, -1] and got[2].dtype == np.int32
    assert got[0].dtype == np.uint8 and got[1].dtype == np.float32
    assert isinstance(got[3], np.random.Generator)
    np.testing.assert_array_equal(image, IMAGE)
    assert objects.ignored.tolist() == [True, False]
    assert objects.labels.tolist() == [0, 1]
    assert objects.boxes[0].tolist() == [5, 5, 30, 20]


def test_a_function_may_drop_boxes_and_write_to_its_arguments():
    _, objects = call('without_first')
    assert objects.ignored.tolist() == [True]
    image, objects = call('in_place')
    assert (image == 7).all() and (IMAGE == 100).all()
    assert objects.boxes[:, :2].tolist() == [[0, 0], [0, 0]]
    assert OBJECTS.boxes[0, 0] == 1
    assert objects.labels.dtype == np.int32


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('nothing', ['a NoneType', 'a tuple of three: image, boxes, labels']),
        ('two', ['a tuple of 2']),
        ('smaller', ['an image of shape (19, 30, 3)', 'expected (20, 30, 3)']),
        ('floats', ['an image of float64', 'uint8']),
        ('as_list', ['boxes that are a list', 'NumPy array (G, 4)']),
        ('five_columns', ['boxes of shape (2, 5)']),
        ('outside', ['box 0, (0, 0, 32, 9),', 'outside', '30x20 (width x height)']),
        ('turned', ['box 0, (9, 0, 3, 9),', 'right or bottom']),
        ('infinite', ['box 0', 'not finite']),
        ('float_labels', ['labels of float64', 'int32']),
        ('too_few_labels', ['labels of shape (1,) for 2 boxes']),
        ('no_such_class', ['the label 2', '0 to 1', '-1 for a crowd region']),
        ('fails', ["raised KeyError: 'brightness'"]),
        ('leaves', ['raised SystemExit: 3']),
        ('missing_file', ['raised FileNotFoundError', '/no/such/file']),
    ],
)
def test_a_bad_function_is_named_with_its_step_and_image(name, words):
    with pytest.raises(BadFunction) as caught:
        call(name)
    where = ['after_flip', 'step 7 on row 2', 'image id 496', '4.png']
    for word in [f'{MODULE}:{name}', *where, *words]:
        assert word in str(caught.value), (word, str(caught.value))


def test_an_exception_is_found_by_the_line_of_the_users_file(tmp_path):
    """Workers send the message alone."""
    file = tmp_path / 'mine.py'
    lines = ['import json', 'def f(*x):', '    return g()', 'def g():']
    file.write_text('\n'.join([*lines, "    return json.loads('{')", '']))
    where = Where(step=6, row=2, record=Source().records[4], classes=2)
    with pytest.raises(BadFunction, match=rf'JSONDecodeError: .* in {file}, line 5$'):
        UserFunction(f'{file}:f').call(IMAGE, OBJECTS, np.random.default_rng(0), where)


def test_a_failure_is_no_bad_image():
    """FileNotFoundError of an image is skipped; that of a function is not."""
    function = UserFunction(f'{MODULE}:missing_file')
    batches = batches_with(after_flip=(function,), max_bad_pictures=0.5)
    with pytest.raises(BadFunction, match='at step 4 on row 0'):
        batches(3)


@pytest.mark.parametrize('name', [f'{MODULE}:darker', f'{FILE}:darker'])
def test_functions_are_found_by_module_or_file(name):
    image, *_ = load(name)(IMAGE, *OBJECTS[:2], np.random.default_rng(0))
    assert image.mean() < 95
    assert load(name) is load(name)
    assert digest(name) == digests([UserFunction(name), object()])[name]


@pytest.mark.parametrize(
    ('name', 'words'),
    [
        ('no_such_module:f', ['importing no_such_module', 'my_file.py:function']),
        ('no/such/file.py:f', ['no file', '/no/such/file.py']),
        (f'{MODULE}:brighter', ['no function', 'darker', 'without_first']),
        (f'{MODULE}:LARGE', ["no function 'LARGE'"]),
        ('sys:exit', ['no Python file']),
    ],
)
def test_functions_that_are_not_there(name, words):
    with pytest.raises(BadFunction) as caught:
        digests([UserFunction(name)])
    for word in ['config.data.train.pipeline.after_flip', name, *words]:
        assert word in str(caught.value), (word, str(caught.value))


def test_a_file_that_cannot_be_imported(tmp_path):
    (tmp_path / 'mine.py').write_text('import numpyy\n')
    with pytest.raises(BadFunction, match=r'ModuleNotFoundError.*numpyy'):
        load(f'{tmp_path}/mine.py:f')


def test_a_file_that_ends_the_program_when_it_is_imported(tmp_path):
    (tmp_path / 'mine.py').write_text('import sys\nsys.exit()\n')
    with pytest.raises(BadFunction, match=r'mine\.py raised SystemExit$'):
        load(f'{tmp_path}/mine.py:f')


def test_a_function_in_a_config_becomes_its_name():
    section = {'type': 'UserFunction', 'function': user_functions.darker}
    path = 'data.train.pipeline.after_flip'
    config = load_config('atss_r50_1x', {path: (section,)})
    named = load_config('atss_r50_1x', {path: ({**section, 'function': NAME},)})
    assert to_json(config) == to_json(named)


def test_a_function_in_the_file_of_a_config(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text(
        'from atss_jax.configs import atss_r50_1x\n\n\n'
        'def f(*x):\n    return x[:3]\n\n\n'
        'def get_config():\n'
        '    config = atss_r50_1x.get_config()\n'
        "    section = {'type': 'UserFunction', 'function': f}\n"
        '    config.data.train.pipeline.after_flip = (section,)\n'
        '    return config\n'
    )
    (section,) = load_config(file).data.train.pipeline.after_flip
    assert section['function'] == f'{file}:f'
    assert load(section['function'])(1, 2, 3, 4) == (1, 2, 3)
    file.write_text(file.read_text().replace("'function': f", "'function': lambda: 3"))
    with pytest.raises(ValueError, match='neither a lambda nor an object'):
        load_config(file)


NAME = f'{MODULE}:darker'


def local():
    def function(image, boxes, labels, rng):
        return image, boxes, labels

    return function


def test_functions_without_a_name_are_refused():
    for function in (local(), lambda *x: x):
        with pytest.raises(BadFunction, match=r'top of a module or of a \.py file'):
            name_of(function)


def test_the_name_of_a_function_of_the_script_is_its_file(monkeypatch):
    main = type(sys)('__main__')
    main.__file__ = FILE
    monkeypatch.setitem(sys.modules, '__main__', main)
    monkeypatch.setattr(user_functions.two, '__module__', '__main__')
    assert name_of(user_functions.two) == f'{FILE}:two'
    del main.__file__
    with pytest.raises(BadFunction, match='in no file'):
        name_of(user_functions.two)


@pytest.mark.parametrize('name', ['darker', 'mine:', ':f', 'a b:f', 'a/b:f', 3])
def test_names_of_another_form_are_refused(name):
    section = {'type': 'UserFunction', 'function': name}
    with pytest.raises(ValueError, match=r"'module:function' or 'file\.py:function'"):
        load_config('atss_r50_1x', {'data.train.pipeline.after_flip': (section,)})


def test_a_run_is_not_resumed_with_a_function_that_has_changed(tmp_path):
    file = tmp_path / 'mine.py'
    file.write_text('def f(*x): return x[:3]\n')
    functions = [UserFunction(f'{file}:f')]
    before = {'user_functions': digests(functions)}
    workdirs.claim(str(tmp_path), '{}', before)
    workdirs.check_stream(str(tmp_path), before)
    file.write_text('def f(*x): return x[1:]\n')
    with pytest.raises(ValueError, match=r'the files of .*mine\.py:f .*have changed'):
        workdirs.check_stream(str(tmp_path), {'user_functions': digests(functions)})


def test_the_slack_is_for_rounding_alone():
    for beyond, is_wrong in ((0.0005, False), (0.005, True)):
        boxes = np.array([[0, 0, 30 + beyond, 20]], np.float32)
        returned = IMAGE, boxes, np.zeros(1, np.int32)
        assert bool(user_function.wrong(returned, IMAGE.shape, 2)) == is_wrong


def test_two_threads_that_load_a_file_at_once_get_the_same(tmp_path):
    """A worker's threads do; the second must not see half of the module."""
    file = tmp_path / 'slow.py'
    file.write_text(
        'import time\ntime.sleep(0.5)\n'
        'def same(image, boxes, labels, rng):\n    return image, boxes, labels\n'
    )
    name = f'{file}:same'
    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        first, second = threads.map(load, [name, name])
    assert first is second
