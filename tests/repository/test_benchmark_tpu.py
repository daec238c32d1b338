"""The table of `benchmarks/tpu_compile.py`, and the commands that fill it."""

import json
import subprocess
import sys

import pytest

from atss_jax.commands import compile as compile_command
from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / 'benchmarks'))

import tpu_compile

RESULT = {
    'program': 'train',
    'topology': 'v5e:2x2',
    'canvas': [800, 1344],
    'samples_per_gpu': 10,
    'too_many': 11,
    'hbm_bytes': 16 * 2**30,
    'memory_bytes': {'total': 15 * 2**30, 'temporaries': 10 * 2**30},
    'operations': 12e12,
    'traffic_bytes': 33e9,
    'traffic_by_kind': {'prefetches': 3e9},
    'estimated_seconds': 0.1,
    'instructions': 8858,
    'bounds_seconds': {
        'matrix_unit': 0.061,
        'hbm': 0.04,
        'links': 0.002,
        'between_slices': None,
    },
    'compile_cpu_seconds': 880.2,
    'has_code': True,
}
PLANNED = RESULT | {'has_code': False, 'estimated_seconds': None}


def test_a_row():
    assert tpu_compile.row(['atss_r50_1x', 'atss_r50_2x_ms'], RESULT) == [
        'atss_r50_1x, atss_r50_2x_ms',
        '800 x 1344',
        '10 (11 do not fit)',
        '15.0 GiB',
        '1.20 T',
        '3.00 GB',
        '164 images/s, matrix unit',
        '100 images/s',
        '8,858',
        '880 s',
    ]


def test_all_rows_have_all_cells():
    nothing = {'tried': {'1': None}, 'too_many': 1}
    results = [RESULT, PLANNED, nothing]
    rows = [tpu_compile.row(['a'], result) for result in results]
    table = tpu_compile.format_table(rows).splitlines()
    assert {line.count('|') for line in table} == {len(tpu_compile.COLUMNS) + 1}


@pytest.mark.parametrize(
    ('too_many', 'said'),
    [(1, 'not one image fits'), (2, 'no batch that was tried fits')],
)
def test_a_program_that_does_not_fit(too_many, said):
    row = tpu_compile.row(['a'], {'tried': {'8': None}, 'too_many': too_many})
    assert row[:2] == ['a', said] and not any(row[2:])


def test_planned_programs_have_no_columns_for_code():
    table = tpu_compile.format_table([tpu_compile.row(['a'], PLANNED)])
    assert table.splitlines()[0] == (
        '| config | canvas | images per chip | HBM | operations per image | HBM '
        'traffic per image | at most, by | instructions |'
    )


def test_configs_with_the_same_program_share_an_entry():
    names = ['atss_r50_1x', 'atss_r50_2x_ms', 'atss_r50_caffe_1x', 'atss_r50_lsj_200e']
    once, twice, caffe, large = names
    assert tpu_compile.groups(names, 'train') == [[once, twice], [caffe], [large]]
    # It trains on other canvases, and detects on the same ones.
    assert tpu_compile.groups(names, 'detect') == [[once, twice, large], [caffe]]


@pytest.mark.parametrize('given', [[], ['--largest'], ['--largest', '--code']])
def test_the_commands_parse(given, tmp_path):
    asked = tpu_compile.parse(given)
    path = tmp_path / 'x.json'
    words = tpu_compile.command(path, 'atss_r50_1x', 'v5e:2x2', 'train', asked)
    flags, others = compile_command.parser().parse_known_args(words[4:])
    assert flags.topology == 'v5e:2x2'
    assert flags.largest == ('--largest' in given) and flags.code == ('--code' in given)
    assert others[0] == 'atss_r50_1x' and set(tpu_compile.HALF) < set(others)


def one_entry(folder, *flags):
    """The flags of a command for one entry, and the file of that entry."""
    words = ['--configs=atss_r50_1x', '--topologies=v5e:2x2', '--programs=train']
    words += [f'--out={folder}', *flags]
    asked = tpu_compile.parse(words)
    return words, tpu_compile.file_of('atss_r50_1x', 'v5e:2x2', 'train', asked)


def test_what_is_there_is_not_compiled_again(tmp_path, monkeypatch, capsys):
    words, path = one_entry(tmp_path, '--code')
    path.write_text(json.dumps({'train': RESULT}))
    monkeypatch.setattr(sys, 'argv', ['tpu_compile.py', *words])
    assert tpu_compile.main() == 0
    assert '8,858' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]


def run_with(monkeypatch, words, status):
    """`main`, its commands doing nothing: its status and the commands."""
    commands = []

    def run(words, **_):
        commands.append(words)
        return subprocess.CompletedProcess(words, status)

    monkeypatch.setattr(sys, 'argv', ['tpu_compile.py', *words])
    monkeypatch.setattr(tpu_compile.subprocess, 'run', run)
    return tpu_compile.main(), commands


@pytest.mark.parametrize(
    ('result', 'first'),
    [(None, 8), (PLANNED, 11), (PLANNED | {'too_many': None}, 10)],
    ids=['nothing is there', 'a batch did not fit', 'all did'],
)
def test_again_begins_with_what_did_not_fit(tmp_path, monkeypatch, result, first):
    words, path = one_entry(tmp_path, '--largest', '--again')
    if result:
        path.write_text(json.dumps({'train': result}))
    status, (command,) = run_with(monkeypatch, words, tpu_compile.DOES_NOT_FIT)
    assert status == 0
    assert f'--config.data.samples_per_gpu={first}' in command


def test_a_compiler_that_fails_fails_the_command(tmp_path, monkeypatch, capsys):
    """Also where the entry of an earlier time is still there."""
    words, path = one_entry(tmp_path, '--again')
    path.write_text(json.dumps({'train': PLANNED}))
    assert run_with(monkeypatch, words, 1)[0] == 1
    assert '1 entries failed' in capsys.readouterr().err
    assert run_with(monkeypatch, [*words, '--table'], 1) == (0, [])


def test_what_is_planned_is_not_taken_for_compiled():
    names = {
        tpu_compile.file_of('atss_r50_1x', 'v5e:2x2', 'train', tpu_compile.parse(flags))
        for flags in ([], ['--code'], ['--largest'], ['--largest', '--code'])
    }
    assert len(names) == 4


@pytest.mark.parametrize('flags', [['--code'], ['--largest']])
def test_the_docs_have_the_tables_of_what_is_compiled(flags):
    tables = tpu_compile.format_tables(tpu_compile.entries(tpu_compile.parse(flags)))
    assert tables and tables in (ROOT / 'docs' / 'tpu.md').read_text()


def test_files_of_what_is_compiled_are_entries():
    """A config of another name, or with a program of its own now, needs a new file."""
    known = {
        path
        for flags in (['--code'], ['--largest'])
        for *_, path in tpu_compile.entries(tpu_compile.parse(flags))
    }
    files = set(tpu_compile.RESULTS.glob('*.json'))
    assert files and files <= known
