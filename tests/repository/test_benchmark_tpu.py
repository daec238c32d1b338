"""The table of `benchmarks/tpu_compile.py`, and the commands that fill it."""

import json
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
    'memory_bytes': {'total': 15 * 2**30},
    'operations': 12e12,
    'traffic_bytes': 33e9,
    'all_reduce_bytes': 128e6,
    'instructions': 8858,
    'bounds_seconds': {
        'matrix_unit': 0.061,
        'hbm': 0.04,
        'links': 0.002,
        'between_slices': None,
    },
    'compile_cpu_seconds': 880.2,
}


def test_a_row():
    *_, row = tpu_compile.format_table([('atss_r50_1x', RESULT)]).splitlines()
    assert row.split(' | ')[3:] == [
        '10 (11 do not fit)',
        '800 x 1344',
        '15.0 GiB',
        '1.20 T',
        '3.30 GB',
        '128 MB',
        '164 images/s',
        'matrix unit',
        '8,858',
        '880 s |',
    ]


def test_all_rows_have_all_cells():
    nothing = {'tried': {'1': None}, 'too_many': 1}
    table = tpu_compile.format_table([('a', RESULT), ('b', nothing)])
    assert {line.count('|') for line in table.splitlines()} == {14}


@pytest.mark.parametrize('samples', [None, 8])
def test_the_commands_parse(samples, tmp_path):
    words = tpu_compile.command(tmp_path, 'atss_r50_1x', 'v5e:2x2', 'train', samples)
    flags, others = compile_command.parser().parse_known_args(words[4:])
    assert flags.topology == 'v5e:2x2' and flags.largest == (samples is None)
    assert others[0] == 'atss_r50_1x' and tpu_compile.HALF in others


def test_what_is_there_is_not_compiled_again(tmp_path, monkeypatch, capsys):
    path = tpu_compile.file_of(tmp_path, 'atss_r50_1x', 'v5e:2x2', 'train', 8)
    path.write_text(json.dumps({'train': RESULT}))
    words = ['--configs=atss_r50_1x', '--topologies=v5e:2x2', '--programs=train']
    flags = ['tpu_compile.py', f'--out={tmp_path}', '--samples=8', *words]
    monkeypatch.setattr(sys, 'argv', flags)
    assert tpu_compile.main() == 0
    assert '8,858' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == [path]
