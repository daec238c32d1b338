"""The one command for a GPU: what it plans, reads and prints; its XLA flags exist."""

import json
import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import pytest

from benchmarks import gpu_everything
from benchmarks.gpu_config import Step
from benchmarks.gpu_everything import (
    CANDIDATES,
    TINY,
    Bench,
    Size,
    longest_kernels,
    report,
    training_command,
    write_files,
)
from benchmarks.gpu_turns import Candidate, in_turns
from tests.conftest import ROOT
from tests.support.documents import Command
from tests.support.dry_run import check_command


@pytest.mark.long
def test_jaxlib_knows_all_flags():
    """An unknown flag ends the process, on a CPU too."""
    flags = [flag for flag in CANDIDATES.values() if flag]
    words = [*flags, '--xla_gpu_per_fusion_autotune_cache_dir=nowhere']
    code = 'import jax; print(jax.jit(lambda x: x + 1)(1))'
    for extra, is_known in (('', True), ('--xla_gpu_no_such_flag=1', False)):
        done = subprocess.run(
            [sys.executable, '-c', code],
            env=os.environ | {'XLA_FLAGS': ' '.join([*words, extra])},
            capture_output=True,
            text=True,
        )
        assert (done.returncode == 0) == is_known, done.stderr


def test_the_first_candidate_is_the_present_state():
    assert next(iter(CANDIDATES.items())) == ('as it is', '')


def test_the_time_suffices_for_most_of_it():
    """11.5 minutes: all but the last flags."""
    bench = Bench(ROOT / 'no_such_folder', Size(), 0)
    assert sum(seconds for seconds, _ in bench.entries().values()) < 11.5 * 60


def test_what_has_no_time_is_named_and_done_later(tmp_path, monkeypatch):
    calls = []

    def entries(bench):
        return {
            name: (seconds, lambda name=name: calls.append(name) or {'batch': 1})
            for name, seconds in (('a', 1), ('b', 1000), ('c', 1))
        }

    monkeypatch.setattr(Bench, 'entries', entries)
    deadline = time.monotonic() + 60
    assert Bench(tmp_path, TINY, deadline).measure() == ['b']
    assert calls == ['a', 'c']
    again = Bench(tmp_path, TINY, deadline + 10_000)
    assert again.measure() == [] and calls == ['a', 'c', 'b']
    assert list(again.results) == ['a', 'c', 'b']


def test_candidates_that_are_missing_are_measured_again(tmp_path):
    some = {name: {'batch': 1, 'seconds': 1.0} for name in list(CANDIDATES)[:2]}
    (tmp_path / 'results.json').write_text(json.dumps({'XLA flags': some}))
    bench = Bench(tmp_path, TINY, time.monotonic() - 1)
    assert 'XLA flags' in bench.measure()


def test_kernels_of_a_trace(tmp_path):
    function = jax.jit(lambda x: jnp.sin(x @ x).sum())
    x = jnp.ones((300, 300))
    function(x).block_until_ready()
    with jax.profiler.trace(str(tmp_path)):
        function(x).block_until_ready()
    kernels = longest_kernels(tmp_path, 3)
    assert 1 <= len(kernels) <= 3
    assert [k['ms'] for k in kernels] == sorted(
        (k['ms'] for k in kernels), reverse=True
    )
    assert all(k['calls'] >= 1 and 0 < k['share'] <= 1 for k in kernels)


def test_files_of_an_epoch(tmp_path):
    write_files(tmp_path / 'files', 5, distinct=2)
    names = sorted(path.name for path in (tmp_path / 'files' / 'images').iterdir())
    assert names == [f'{index:04d}.jpg' for index in range(5)]
    content = json.loads((tmp_path / 'files' / 'train.json').read_text())
    assert [image['file_name'] for image in content['images']] == names
    for size in (Size(), TINY):
        _, _, *words = training_command(tmp_path / 'files', size, 5)
        check_command(Command('here', ('python', 'train.py', *words)), {})


def result(seconds, **more):
    return {'batch': 16, 'seconds': seconds, 'first_seconds': 9.0, **more}


def test_the_tables():
    kernel = {'name': 'fusion', 'ms': 1.5, 'calls': 3, 'share': 0.25}
    results = {
        'matrix product': {'operations_per_second': 1e14, 'device': 'X'},
        'R50 training': result(0.04, multiply_adds=10**11, kernels=[kernel]),
        'R50 training from files': result(0.05, data_wait_share=0.015),
        'atss_r50_dcn_1x, 16 images': {'batch': 16, 'error': 'out of memory'},
        'XLA flags': {
            'as it is': result(0.04),
            'no CUDA graphs': result(0.05, flags='--xla=x'),
            'latency-hiding scheduler': {'batch': 16, 'error': 'failed'},
        },
    }
    text = report(results)
    assert '| R50 training | 400.0 | 40.0 ms | 80% |  | 9 s |  |' in text
    assert '| R50 training from files | 320.0 | 50.0 ms |  |  | 9 s | 1.5% |' in text
    assert '| atss_r50_dcn_1x, 16 images | out of memory |' in text
    assert 'from files at 0.80 of the speed on resident images' in text
    assert '| no CUDA graphs | 50.00 ms | 0.800 | `--xla=x` |' in text
    assert '| latency-hiding scheduler | failed |' in text
    assert '| 25.0% | 1.50 ms | 3 | fusion |' in text


def tiny_step(limit=None, flags=''):
    overrides = {
        'model.backbone.depth': 18,
        'model.neck.in_channels': (64, 128, 256, 512),
    }
    step = Step('atss_r50_1x', overrides, 1, (64, 64), 'float32', 1)
    return Candidate(step, 'shared', flags, limit)


def test_steps_in_turns():
    """Compiled at the same time: each has a result, also one that is given up."""
    candidates = {
        'first': tiny_step(),
        'late': tiny_step(limit=0.1),
        'in time': tiny_step(limit=200),
        'wrong': tiny_step(flags='--xla_no_such_flag=1'),
    }
    seen = {}

    def environment(kernels, flags, share):
        seen[flags] = kernels, share
        return {**os.environ, 'XLA_FLAGS': flags, 'PYTHONPATH': str(ROOT)}

    results = in_turns(candidates, environment, time.monotonic() + 500, at_once=True)
    assert results['first']['seconds'] > 0 and 'version' in results['first']
    assert results['late']['error'] == 'not compiled in 0 s'
    assert results['in time']['seconds'] > 0
    assert results['wrong']['error'] == 'failed'
    assert seen.keys() == {'', '--xla_no_such_flag=1'}
    assert seen[''] == ('shared', pytest.approx(0.225))


def test_other_configs_at_once(tmp_path, monkeypatch):
    """One entry, whose results are rows of the table like those of others."""
    bench = Bench(tmp_path, TINY, time.monotonic() + 10_000, ['other configs'], True)
    asked = []

    def measured(candidates, **how):
        asked.append((list(candidates), how))
        return {name: result(0.1) for name in candidates}

    monkeypatch.setattr(bench, 'in_turns', measured)
    assert bench.measure() == []
    name = 'atss_r50_dcn_1x, 1 images'
    assert asked == [([name], {'at_once': True})]
    assert f'| {name} | 160.0 |' in report(bench.results)
    bench.results['other configs'][name] = {'batch': 1, 'error': 'failed'}
    asked.clear()
    assert bench.measure() == [] and asked, 'a failure is tried again'


def test_no_such_entry(tmp_path):
    bench = Bench(tmp_path, TINY, 0, ['R50 trainin'])
    with pytest.raises(SystemExit, match="no entry 'R50 trainin'; there are 'matrix"):
        bench.measure()


@pytest.mark.slow
def test_all_of_it_on_a_cpu(tmp_path, monkeypatch, capsys):
    words = ['gpu_everything.py', f'--out={tmp_path}', '--minutes=60', '--tiny']
    monkeypatch.setattr(sys, 'argv', words)
    assert gpu_everything.main() == 0, capsys.readouterr().out
    results = json.loads((tmp_path / 'results.json').read_text())
    assert results.keys() == Bench(tmp_path, TINY, 0).entries().keys()
    assert results['XLA flags'].keys() == CANDIDATES.keys()
