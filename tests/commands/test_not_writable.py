"""Folders that cannot be written to: known before computing, and no number is lost."""

import json
import os
import pathlib
import shutil

import pytest

from atss_jax.commands import command_line
from atss_jax.commands.command_line import _may_write
from atss_jax.evaluation import evaluate as evaluation
from atss_jax.evaluation.run import Evaluator
from atss_jax.files.atomic import check_writable
from atss_jax.inference import export
from atss_jax.inference.detector import Detector
from tests.support.small_run import tree_of


@pytest.fixture
def run(small_run, tmp_path):
    """A copy of the finished run in which `evaluation` is a file, not a folder.

    Tests may run as root, for whom permissions do not count.
    """
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
    (workdir / 'evaluation').touch()
    return workdir


@pytest.fixture
def nothing_is_computed(monkeypatch):
    def fail(*args, **kwargs):
        raise AssertionError('computed before the folder was checked')

    monkeypatch.setattr(Evaluator, 'detections', fail)
    monkeypatch.setattr(Detector, 'load', fail)
    monkeypatch.setattr(export, '_program', fail)


def test_eval_says_so_before_computing(call, run, nothing_is_computed):
    result = call('eval', f'--workdir={run}')
    assert result.refuses(
        f'{run}/evaluation cannot be written to (Not a directory', '--out'
    )


def test_eval_writes_where_out_says(call, run, tmp_path):
    before = tree_of(run)
    out = tmp_path / 'made' / 'here'
    flags = '--report', '--min_score=0', f'--out={out}'
    result = call('eval', f'--workdir={run}', *flags)
    assert result.status == 0, result.err
    names = sorted(path.name.partition('_')[2] for path in out.iterdir())
    step = names[0].partition('_')[0]
    assert names == [
        *(f'{step}_detections.json', f'{step}_report.html', f'{step}_scores.json')
    ]
    after = {k: v for k, v in tree_of(run).items() if 'compile_cache' not in k}
    assert after == before
    numbers = f'--results={out}/val_{step}_detections.json', f'--out={tmp_path}/again'
    result = call('eval', f'--workdir={run}', *numbers)
    assert result.status == 0, result.err
    (again,) = (tmp_path / 'again').iterdir()
    scores = json.loads((out / f'val_{step}_scores.json').read_text())
    assert json.loads(again.read_text())['AP'] == scores['AP']


def test_a_full_disk_does_not_lose_the_numbers(call, run, tmp_path, monkeypatch):
    def fail(path, *args, **kwargs):
        raise OSError(28, 'No space left on device', str(path))

    monkeypatch.setattr(evaluation, 'write_json', fail)
    result = call('eval', f'--workdir={run}', f'--out={tmp_path}')
    assert result.refuses('No space left on device')
    assert 'AP50' in result.out and 'checkpoint' in result.out


def test_results_in_a_folder_that_cannot_be_written_to(call, small_data, tmp_path):
    (tmp_path / 'results.json').write_text('[]')
    (tmp_path / 'file').touch()
    flags = f'--results={tmp_path}/results.json', f'--ann_file={small_data}/val.json'
    result = call('eval', *flags, f'--out={tmp_path}/file/x')
    assert result.refuses(f'{tmp_path}/file/x cannot be written to', '--out')


def test_predict_draw_and_export(call, small_run, tmp_path, nothing_is_computed):
    (tmp_path / 'file').touch()
    (tmp_path / 'a.png').touch()
    workdir, out = f'--workdir={small_run.workdir}', tmp_path / 'file' / 'x'
    for words in (
        ['predict', f'{tmp_path}/a.png', workdir, f'--out={out}'],
        ['export', workdir, f'--out={out}/y.stablehlo'],
        ['draw', 'detections', workdir, f'--out={out}/y.png'],
        ['draw', 'run', workdir, f'--out={out}/y.png'],
    ):
        result = call('atss', *words)
        assert result.refuses(f'{out} cannot be written to (Not a directory')


def test_the_check_leaves_nothing(tmp_path):
    check_writable(tmp_path / 'a' / 'b')
    check_writable(tmp_path)
    assert tree_of(tmp_path) == {}


@pytest.mark.skipif(not hasattr(os, 'geteuid'), reason='needs POSIX')
def test_folders_of_others(tmp_path):
    if os.geteuid() == 0:
        pytest.skip('root may write everywhere')
    tmp_path.chmod(0o555)
    with pytest.raises(PermissionError, match=r'cannot be written to .Permission'):
        check_writable(tmp_path / 'a')
    assert not _may_write(tmp_path / 'a')


def test_no_compilation_cache_where_it_cannot_be_written(tmp_path, monkeypatch):
    flags = command_line.argparse.Namespace(compile_cache=None, workdir=str(tmp_path))
    monkeypatch.setenv('JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS', '0')
    for is_writable in (False, True):
        monkeypatch.delenv('JAX_COMPILATION_CACHE_DIR', raising=False)
        monkeypatch.setattr(os, 'access', lambda *args, answer=is_writable: answer)
        command_line.prepare_compiling(flags)
        assert ('JAX_COMPILATION_CACHE_DIR' in os.environ) == is_writable
    cache = pathlib.Path(os.environ['JAX_COMPILATION_CACHE_DIR'])
    assert cache == tmp_path / 'compile_cache'
