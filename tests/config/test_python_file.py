"""Config files of users: programs, which may be wrong in any way."""

import pytest

from atss_jax.config import load_config, to_json
from tests.support.configs import BASE, R50

IMPORT = 'from atss_jax.configs import atss_r50_1x\nimport ml_collections\n'


@pytest.fixture
def show(call, tmp_path):
    """`atss show-config own.py` with this text in the file."""

    def run(text, *flags):
        content = text if isinstance(text, bytes) else text.encode()
        (tmp_path / 'own.py').write_bytes(content)
        return call('atss', 'show-config', tmp_path / 'own.py', *flags)

    return run


def with_body(*lines):
    body = ['config = atss_r50_1x.get_config()', *lines]
    return IMPORT + 'def get_config():\n' + ''.join(f'    {line}\n' for line in body)


@pytest.mark.parametrize(
    'returned',
    [
        'config',
        'config.to_dict()',
        'ml_collections.FrozenConfigDict(config)',
        '{**config}',
        'dict(config.to_dict(), model=config.model)',
        'dict(config.to_dict(), data=dict(config.data))',
    ],
)
def test_what_get_config_may_return(tmp_path, returned):
    (tmp_path / 'own.py').write_text(with_body(f'return {returned}'))
    assert to_json(load_config(tmp_path / 'own.py')) == to_json(BASE)


@pytest.mark.parametrize(
    ('text', 'parts'),
    [
        ('def get_config(:\n', ['own.py, line 1: invalid syntax', 'def get_config(:']),
        ('\nif True:\nx = 1\n', ['own.py, line 3: expected an indented block']),
        (b'x = 1\ny = "\xe9"\n', ['own.py', "'utf-8' codec can't decode"]),
        (b'\x00\x01', ['own.py', 'null bytes']),
        ('\nx = lr\n', ["line 2: NameError: name 'lr' is not defined in `x = lr`"]),
        ('import none_such\n', ["line 1: No module named 'none_such'"]),
        ('1 / 0', ['line 1: ZeroDivisionError: division by zero']),
        (with_body('config.optimiser.lr = 1'), ['line 5: AttributeError', 'optimiser']),
        (with_body("config.optimizer.lr = 'a'"), ['line 5: TypeError', "field 'lr'"]),
        (with_body("raise ValueError('mine')"), ['line 5: ValueError: mine']),
        (with_body('import sys', 'sys.exit()'), ['line 6: SystemExit in `sys.exit()`']),
        (with_body("raise SystemExit('no data')"), ['line 5: SystemExit: no data in']),
        ('\nquit(3)\n', ['line 2: SystemExit: 3 in `quit(3)`']),
        (with_body('config.data.train = [config.data.train]'), ["field 'train'"]),
        (
            'def get_config(x): return x',
            ["missing 1 required positional argument: 'x'"],
        ),
        (
            'def get_config(): pass',
            ['get_config() returns None, expected a ConfigDict'],
        ),
        ('def get_config(): return [1] * 9999', ['returns [1, 1, 1, 1, ', '...']),
        ('get_config = 3', ['own.py has no get_config()']),
        ("model = dict(type='ATSS')", ['has no get_config()', 'atss import-mmdet']),
    ],
)
def test_what_is_wrong_with_a_file_in_one_line(show, text, parts):
    result = show(text)
    assert result.refuses('own.py', *parts)
    assert len(result.err) < 800


def test_an_error_in_a_config_that_it_imports(show, tmp_path):
    (tmp_path / 'configs').mkdir()
    (tmp_path / 'configs' / 'base.py').write_text('x = (\n')
    (tmp_path / 'configs' / 'own.py').write_text('from configs import base\n')
    with pytest.raises(ValueError, match=r'base\.py, line 1: '):
        load_config(tmp_path / 'configs' / 'own.py')


PIPELINE = 'data.train.pipeline'


@pytest.mark.parametrize(
    ('override', 'parts'),
    [
        ('data.train=[{"type": "CocoDataset"}, {"type": 1}]', ['data.train is a list']),
        ('data=[{"train": 1}]', ['config.data is a list; expected one section']),
        (f'{PIPELINE}=[{{"type": "Resize"}}]', [f'config.{PIPELINE} is a list']),
        ('model=[{"type": "ATSS"}]', ['config.model is a list']),
        ('data.train=[1, 2]', ["'data.train' is a section"]),
        (f'data.train.classes={list(range(5000))}', ['0, 1, 2, ', '...', 'a tuple']),
        (f'load_from={list(range(5000))}', ['0, 1, 2, ', '...', 'a path']),
        (f'optimizer.lr={"9" * 400}', ['optimizer.lr = 999', '...']),
    ],
)
def test_values_of_the_wrong_kind_are_not_printed_whole(call, override, parts):
    result = call('atss', 'show-config', R50, f'--config.{override}')
    assert result.refuses(*parts)
    assert len(result.err) < 500


@pytest.mark.parametrize(
    'words',
    [
        ['show-config', '{file}'],
        ['flops', '{file}', '--canvas=64x64'],
        ['train', '--config={file}', '--workdir=w', '--config.seed=no'],
        ['draw', 'data', '--config={file}', '--out=a.png'],
        ['write-shapes', '--config={file}', '--out=a'],
    ],
)
def test_from_configs_import_outside_the_repository(call, tmp_path, monkeypatch, words):
    """All commands load configs alike: none fails at the import."""
    file = tmp_path / 'own.py'
    file.write_text('from configs import atss_r50_1x as b\nget_config = b.get_config\n')
    monkeypatch.chdir(tmp_path)
    result = call('atss', *(word.format(file=file) for word in words))
    assert 'import' not in result.err and 'Traceback' not in result.err
    file.write_text('from configs import atss_r50_9x\n')
    result = call('atss', *(word.format(file=file) for word in words))
    assert result.refuses('own.py, line 1: cannot import', "did you mean 'atss_r50_1x'")


def test_a_config_of_a_few_fields_says_to_begin_with_a_shipped_one(show):
    result = show("def get_config():\n    return {'model': {}}\n")
    assert result.refuses("no field 'data.train.type'", 'take a shipped one')
    assert 'None' not in result.err
