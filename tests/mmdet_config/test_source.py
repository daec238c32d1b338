"""mmdet's config files: read as mmengine reads them, and nothing in them is run."""

import pytest

from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.expression import check_evaluated


@pytest.fixture
def write(tmp_path):
    """`write('a.py', 'x = 1')` gives the path of the file."""

    def to_file(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    return to_file


@pytest.mark.parametrize(
    ('text', 'value'),
    [
        ("1, -2.5, 'a', None, True", (1, -2.5, 'a', None, True)),
        ('dict(a=1, b=dict(c=[2]))', {'a': 1, 'b': {'c': [2]}}),
        ("{'a': 1, **dict(b=2)}", {'a': 1, 'b': 2}),
        ("dict({'a': 1}, a=2, **{'b': 3})", {'a': 2, 'b': 3}),
        ('0.01 * 4 - 1 / 2**3 + 7 // 2 % 2', 0.01 * 4 - 1 / 2**3 + 7 // 2 % 2),
        ('[1] * 3 + [2]', [1, 1, 1, 2]),
        ("'a' + 'b' 'c'", 'abc'),
        ("f'resnet{50}.{True}'", 'resnet50.True'),
        ('not -1', False),
        ('list((1, 2)), tuple([3])', ([1, 2], (3,))),
        ("len(('a', 'b')), len({}), len('abc')", (2, 0, 3)),
        ('range(3), range(1, 6, 2)', ([0, 1, 2], [1, 3, 5])),
        ('max(1, 2), min([4, 3]), sum([1, 2]), abs(-1)', (2, 3, 3, 1)),
        (
            "int('8'), float(1), str(50), sorted({'b': 1, 'a': 2})",
            (8, 1, '50', ['a', 'b']),
        ),
        (
            "'cat dog'.split(), 'a,b'.split(','), ' A '.strip().lower()",
            (['cat', 'dog'], ['a', 'b'], 'a'),
        ),
        ('[*[1, 2], 3]', [1, 2, 3]),
        ("dict(a=[5, 6])['a'][-1]", 6),
        ('[1, 2, 3, 4][1:3]', [2, 3]),
    ],
)
def test_values(write, text, value):
    assert source.read(write('c.py', f'x = {text}')) == {'x': value}


def test_names_and_several_targets(write):
    text = 'a = b = 2\n"""doc"""\nc, (d, e) = a, [b * 3, 4]\nf: int = c\n__g = 5\n'
    found = source.read(write('c.py', text))
    assert found == {'a': 2, 'b': 2, 'c': 2, 'd': 6, 'e': 4, 'f': 2}


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ("__import__('os').system('touch ran')", 'calls'),
        ("open('ran', 'w')", 'calls'),
        ('[i for i in (1, 2)]', 'a comprehension'),
        ('(lambda: 1)()', 'calls'),
        ('1 if y else 2', 'a choice by a condition'),
        ('1 < 2', 'a comparison'),
        ('unknown', "the name 'unknown' is not known"),
        ('dict.__class__', "the name 'dict'"),
        ("'a'.join", "no 'join'"),
        ("'a'.join(['b'])", "calls of 'join'"),
        ("'{:9999999999}'.format(1)", "calls of 'format'"),
        ('range(10**9)', 'too long'),
        ('len(5)', 'expected one string, list, tuple or dict'),
        ('len()', 'expected one string'),
        ("int('x')", 'invalid literal'),
        ('max(1, "a")', 'not supported between'),
        ('str([[1]])', 'only numbers, strings'),
        ('round(1, -10**9)', 'calls'),
        ("'%d' % 3", 'arithmetic is supported for numbers only'),
        ('1 / 0', 'division by zero'),
        ('9**9**9', 'too large a power'),
        ("'a' * 10**9", 'too long'),
        ('[0] * 10**9', 'too long'),
        ('(-8) ** 0.5', 'not a real number'),
        ("'{{ $HOME }}'", 'placeholder'),
        ("f'{3.14159:.2f}'", 'format'),
        ('[1, 2][5]', 'IndexError'),
        ('{[1]: 2}', 'as a key'),
        ('*[1], 2.5j', 'complex'),
    ],
)
def test_what_is_not_a_value_is_refused_with_its_line(
    write, monkeypatch, tmp_path, text, message
):
    monkeypatch.chdir(tmp_path)
    path = write('c.py', f'y = 1\n\nx = {text}\n')
    with pytest.raises(ValueError) as caught:
        source.read(path)
    assert f'{path}, line 3' in str(caught.value) and message in str(caught.value)
    assert not (tmp_path / 'ran').exists()


@pytest.mark.parametrize(
    'text',
    [
        'import os',
        'from os import path',
        'def f(): pass',
        'for i in (1, 2): x = i',
        'if True: x = 1',
        'x.y = 1',
        "x['y'] = 1",
        'x += 1',
        'del x',
        'print(1)',
        'with read_base():\n    from .a import *',
        'a, b = 1, 2, 3',
        'a, b = 5',
    ],
)
def test_statements_that_are_no_assignments_are_refused(write, text):
    path = write('c.py', f'x = {{}}\n{text}\n')
    with pytest.raises(ValueError, match='line 2'):
        source.read(path)


def test_what_would_fill_the_memory_is_refused(write):
    doubled = "x = 'a'\n" + 'x = x + x\n' * 60
    with pytest.raises(ValueError, match='too long'):
        source.read(write('c.py', doubled))
    joined = "x = 'a'\n" + "x = f'{x}{x}'\n" * 60
    with pytest.raises(ValueError, match='too long'):
        source.read(write('c.py', joined))
    for deep in ('(' * 5000 + '1' + ')' * 5000, '-' * 5000 + '1'):
        with pytest.raises(ValueError, match=r'c\.py: (nested too deeply|not Python)'):
            source.read(write('c.py', f'x = {deep}'))


def test_values_that_are_not_supported_can_wait(write):
    text = (
        'import os\nx = dict(a=1, b=os.name, c=[f(), 2])\ny = x["c"][1]\nz = x["b"]\n'
    )
    path = write('c.py', text)
    found = source.read_lazily(path)
    assert found['x']['a'] == 1 and found['y'] == 2
    assert repr(found['x']['c']) == '[f(), 2]' and repr(found['x']['b']) == 'os.name'
    for value, line in ((found['z'], 1), (found['x'], 1), (found['x']['c'], 2)):
        with pytest.raises(ValueError, match=f'line {line}: '):
            check_evaluated(value)
    with pytest.raises(ValueError, match='line 1: '):
        source.read(path)


# Bases --------------------------------------------------------------------------------


def test_a_dict_is_merged_and_all_else_replaced(write):
    write('a.py', "m = dict(x=dict(p=1, q=2), y=[1, 2])\nn = 5\nleft = 'a'")
    path = write(
        'c.py', "_base_ = './a.py'\nm = dict(x=dict(q=3), y=[4])\nn = dict(z=1)"
    )
    with pytest.raises(ValueError, match='n is a dict, but in the base it is 5'):
        source.read(path)
    path = write('c.py', "_base_ = ['a.py']\nm = dict(x=dict(q=3), y=[4])\nn = 6")
    expected = {'m': {'x': {'p': 1, 'q': 3}, 'y': [4]}, 'n': 6, 'left': 'a'}
    assert source.read(path) == expected


def test_delete_replaces_a_dict(write):
    write('a.py', 'm = dict(x=dict(p=1, q=2), keep=3)')
    text = (
        "_base_ = 'a.py'\nm = dict(x=dict(_delete_=True, q=3), new=dict(_delete_=True))"
    )
    assert source.read(write('c.py', text)) == {
        'm': {'x': {'q': 3}, 'keep': 3, 'new': {}}
    }


def test_values_of_a_base_in_both_styles(write):
    write('a.py', 'lr = 0.02\nm = dict(depth=dict(d=50), steps=[8, 11])')
    text = (
        "_base_ = 'a.py'\n"
        'old = dict(d={{_base_.m.depth}}, s=[{{ _base_.m.steps }}])\n'
        'new = _base_.lr / 2\nlast = _base_.m.steps[-1]\n'
    )
    found = source.read(write('c.py', text))
    assert found['old'] == {'d': {'d': 50}, 's': [[8, 11]]}
    assert found['new'] == 0.01 and found['last'] == 11


def test_paths_are_relative_to_the_file_that_names_them(write):
    write('top/a.py', 'a = 1')
    write('top/x/b.py', "_base_ = '../a.py'\nb = 2")
    path = write('y/c.py', "_base_ = ['../top/x/b.py']\nc = '{{ fileBasename }}'")
    assert source.read(path) == {'a': 1, 'b': 2, 'c': 'c.py'}


def test_bases_of_mmdet_need_its_folder(write, tmp_path):
    write('configs/s/a.py', 'a = 1')
    path = write('c.py', "_base_ = 'mmdet::s/a.py'")
    assert source.read(path, tmp_path / 'configs') == {'a': 1}
    with pytest.raises(ValueError, match='--mmdet_configs'):
        source.read(path)
    path = write('d.py', "_base_ = 'mmpose::s/a.py'")
    with pytest.raises(ValueError, match='package mmpose'):
        source.read(path, tmp_path / 'configs')


def test_what_is_wrong_with_bases_is_named(write):
    write('a.py', "_base_ = 'b.py'")
    with pytest.raises(ValueError, match='its own base'):
        source.read(write('b.py', "_base_ = 'a.py'"))
    write('x.py', 'm = 1')
    write('y.py', 'm = 1')
    with pytest.raises(ValueError, match=r"assign \['m'\]"):
        source.read(write('c.py', "_base_ = ['x.py', 'y.py']"))
    with pytest.raises(FileNotFoundError, match=r'no\.py, the base of .*d\.py'):
        source.read(write('d.py', "_base_ = 'no.py'"))
    with pytest.raises(ValueError, match='not Python'):
        source.read(write('e.py', 'x = ('))
    with pytest.raises(ValueError, match='expected a Python config'):
        source.read(write('f.yaml', 'x: 1'))
