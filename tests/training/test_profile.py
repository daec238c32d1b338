"""A trace of chosen steps; what the start took; where programs are kept."""

import argparse
import gzip
import json
import os
import re

import pytest

from atss_jax.commands import command_line
from atss_jax.training.log import Startup
from atss_jax.training.profile import Profile
from tests.support.small_run import PROFILED


def test_the_trace_holds_the_chosen_steps_alone(small_run):
    (file,) = (small_run.workdir / 'profile').rglob('*.trace.json.gz')
    events = json.loads(gzip.decompress(file.read_bytes()))['traceEvents']
    steps = {
        int(event['args']['step_num'])
        for event in events
        if event.get('name') == 'train' and 'step_num' in event.get('args', {})
    }
    assert steps == set(range(PROFILED[0], PROFILED[1] + 1))


def test_the_log_says_what_the_start_took(small_run):
    line = r'first step done ([\d.]+) s after the start \((.*)\)'
    found = re.search(line, small_run.said)
    names = [part.rsplit(' ', 1)[0] for part in found[2].split(', ')]
    seconds = [float(part.rsplit(' ', 1)[1]) for part in found[2].split(', ')]
    assert names == [
        'imports',
        'annotations',
        'weights',
        'compiling',
        'first batch',
        'first step',
    ]
    assert sum(seconds) == pytest.approx(float(found[1]), abs=0.4)  # of rounding


@pytest.mark.parametrize(('start', 'total'), [(0, 5), (3, 10)])
def test_steps_that_the_run_does_not_reach(tmp_path, start, total):
    with pytest.raises(ValueError, match=rf'--profile=3:6.* {start + 1} to {total}'):
        Profile(str(tmp_path), (3, 6), start, total)


def test_no_steps_chosen(tmp_path):
    Profile(str(tmp_path), None, 0, 1)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('text', ['7', '0:3', '5:4', 'a:b', ':', '-1:2'])
def test_a_range_that_is_none(text):
    with pytest.raises(argparse.ArgumentTypeError, match=text):
        command_line.step_range(text)


def test_startup_adds_up(monkeypatch):
    now = iter([3.0, 4.5, 5.0])
    monkeypatch.setattr('time.perf_counter', lambda: next(now))
    startup = Startup(began=1.0)
    for part in ('imports', 'weights', 'imports'):
        startup.spent_on(part)
    assert str(startup) == '4.0 s after the start (imports 2.5, weights 1.5)'


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """`cache(WORDS)`: the folder that the words say, `None` for no cache."""
    for name in ('JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE'):
        monkeypatch.setenv(name, '')  # so that it is put back in any case
        monkeypatch.delenv(name)
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '1')

    def folder(*words):
        parser = argparse.ArgumentParser()
        parser.add_argument('--workdir', default=str(tmp_path / 'run'))
        command_line.add_cache_flag(parser)
        command_line.prepare_compiling(parser.parse_args(words))
        if os.environ.get('JAX_ENABLE_COMPILATION_CACHE') == 'false':
            return None
        return os.environ.get('JAX_COMPILATION_CACHE_DIR')

    return folder


def test_compiled_programs_are_kept_in_the_workdir(cache, tmp_path):
    assert cache() == str(tmp_path / 'run' / 'compile_cache')


def test_the_flag_says_where(cache, monkeypatch, tmp_path):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/elsewhere')
    assert cache(f'--compile_cache={tmp_path}') == str(tmp_path)


def test_the_environment_says_where(cache, monkeypatch):
    monkeypatch.setenv('JAX_COMPILATION_CACHE_DIR', '/elsewhere')
    assert cache() == '/elsewhere'


def test_no_cache(cache, monkeypatch):
    monkeypatch.setenv('JAX_ENABLE_COMPILATION_CACHE', 'true')
    assert cache('--compile_cache=off') is None


def test_a_file_of_weights_has_no_folder_for_it(cache, tmp_path):
    (tmp_path / 'model.pth').touch()
    assert cache(f'--workdir={tmp_path / "model.pth"}') is None
