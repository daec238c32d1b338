"""The benchmark of kills and resumes, made small; docs/results.md has 20 kills."""

import random

import pytest

from benchmarks.kill_resume import compare


@pytest.mark.slow
def test_three_kills(tmp_path, capsys):
    # Many epochs: where the first run was slow, the moments are far apart.
    equal = compare(tmp_path, 1, 3, random.Random(0), epochs=14)
    assert equal, capsys.readouterr().out
    said = capsys.readouterr().out
    assert '3 kills, 3 resumes, last exit status [0]' in said
    assert 'equal bit for bit' in said
