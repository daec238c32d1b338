"""The commands of the documentation run, except those listed here with a reason.

They are run as they are written, in a folder that has small stand-ins for everything
they name: see `tests/support/stand_in.py`. The quick start has a test of its own in
`test_docs.py`.
"""

import pathlib
import re
import shlex
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT
from tests.support import documents, stand_in
from tests.support.command_line import Result
from tests.support.documents import PAGES, Command

# Commands that cannot be run here, and why. All others are run.
NOT_RUN = {
    r'make install': 'needs a network',
    r'make site': 'needs a network; make test-site runs it',
    r'make demo': 'takes minutes; tests/commands/test_demo.py looks at its workdir',
    r'make test': 'is these tests, and others',
    r'make mmdet-env': 'needs a network, and compiles for half an hour',
    r'\. \.venv': 'is a command of the shell',
    r'pip install': 'needs a network',
    r'atss( [a-z-]+)?$': 'is a name in a sentence, without its flags',
    r'atss train --config=atss_': 'trains a shipped config; the test of the wheel does',
    r'atss (predict|eval|export|train|convert) .*(--model=|mmdet://|https://|hf://)': (
        'needs a network: tests/training/test_zoo_weights.py'
    ),
    r'atss (export|predict) .*\.onnx': 'needs onnxruntime: inference/test_onnx_file.py',
    r'atss predict .*--track': 'needs supervision: commands/test_predict_video.py',
    r'atss download-coco': 'needs a network: test_download_coco.py',
    r'atss doctor --apply=': 'needs what a browser saves: commands/test_doctor.py',
    r'atss compile .*--(topology|code)': 'needs libtpu: test_tpu_programs.py',
    r'gcloud |gsutil ': 'needs a bucket',
    r'atss train .*gs://': 'needs a bucket: test_tfds.py',
    r'atss train .*--coordinator': 'needs four hosts: test_cluster.py',
    r'launch/': 'needs a cluster: tests/distributed/test_launch.py',
    r'python benchmarks/(?!input.py --config|scaling_model)': 'measures, for minutes',
}
# Words that refer to the reader's own run, machine or shell, and what is run instead.
INSTEAD_OF = {
    '9000': '6',
    '13': '3',
    '--config=C': '--config=W/config.json',
    '--profile=100:105': '--profile=2:3',
    '--workdir=/shared/work_dirs/atss_r50_1x': '--workdir=work_dirs/shared',
}
TESTED = [page for page in PAGES if page.name != 'quickstart.md']


def words_of(command: Command) -> list[str]:
    """The words of a command, with `atss` for all its spellings."""
    arguments = documents.arguments_of_atss(command.words)
    return list(command.words) if arguments is None else ['atss', *arguments]


def reason(command: Command) -> str | None:
    """Why a command is not run; None if it is."""
    line = ' '.join(words_of(command))
    return next((NOT_RUN[part] for part in NOT_RUN if re.match(part, line)), None)


def all_commands(page: pathlib.Path) -> list[Command]:
    return documents.commands(page) + documents.inline_commands(page)


def to_run(page: pathlib.Path) -> list[list[str]]:
    """The words of each command of a page that can be run, without repetitions."""
    lines = [
        tuple(INSTEAD_OF.get(word, word) for word in words_of(command) if word != '...')
        for command in all_commands(page)
        if reason(command) is None
    ]
    return [list(words) for words in dict.fromkeys(lines)]


def marked(page: pathlib.Path):
    """A page as a parameter; those whose commands take long are slow."""
    slow = (
        *(['atss', 'train'], ['atss', 'init'], ['atss', 'export']),
        ['python', 'benchmarks/input.py'],
    )
    is_slow = any(words[:2] in slow for words in to_run(page))
    return pytest.param(page, marks=pytest.mark.slow if is_slow else ())


@pytest.fixture
def run(call, monkeypatch, tmp_path):
    """Runs the words of a command in the folder of stand-ins."""

    def run_in_new_process(*words):
        done = subprocess.run(
            [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True
        )
        return Result(done.returncode, done.stdout, done.stderr)

    def run(program, *words):
        if program == 'python':
            return run_in_new_process(*words)
        if program != 'atss':
            raise AssertionError(f'{program} is neither run nor listed in NOT_RUN')
        # Export uses symbolic sizes, which the shape checks in this process reject.
        if words[0] == 'export':
            return run_in_new_process('-m', 'atss_jax', *words)
        # The shipped configs are meant here, not their small stand-ins.
        of_shipped = words[0] in ('show-config', 'flops') and not any(
            word.startswith('my_data/') for word in words
        )
        monkeypatch.chdir(ROOT if of_shipped else tmp_path)
        return call('atss', *words)

    return run


@pytest.fixture
def folder(small_data, small_run, tmp_path):
    """A folder with stand-ins for everything that the commands name."""
    stand_in.write(tmp_path, small_data, small_run)
    return tmp_path


@pytest.mark.parametrize(
    'page',
    [marked(page) for page in TESTED if to_run(page)],
    ids=lambda page: page.name,
)
def test_commands_run(page, folder, run):
    prepare(page, folder, run)
    for words in to_run(page):
        result = run(*words)
        assert result.status == 0, f'{shlex.join(words)}\n{result.out}\n{result.err}'
        for path in outputs_of(words):
            assert (folder / path).exists(), f'{shlex.join(words)} wrote no {path}'


def outputs_of(words):
    """The values of --out and --workdir."""
    flags = '\n'.join(words)
    return re.findall(r'^--(?:out|workdir)[=\n](.+)$', flags, flags=re.MULTILINE)


def prepare(page, folder, run):
    """Do what other pages, or the reader, would have done before."""
    commands = to_run(page)
    for words in commands:
        if words[:2] == ['atss', 'train']:
            for path in outputs_of(words):
                if f'--config={path}/config.json' not in words:  # a run to continue
                    shutil.rmtree(folder / path, ignore_errors=True)
    if any('epoch_12.pth' in words for words in commands):
        result = run('atss', 'convert', 'W', 'epoch_12.pth', '--momentum')
        assert result.status == 0, result.err
    if page.name == 'data.md':
        words = next(words for words in commands if 'mine:1.0.0' in words)
        other = {'train': 'validation', 'mine/train.json': 'mine/val.json'}
        assert run(*(other.get(word, word) for word in words)).status == 0


def test_every_reason_belongs_to_a_command():
    lines = [' '.join(words_of(c)) for page in TESTED for c in all_commands(page)]
    for part in NOT_RUN:
        assert any(re.match(part, line) for line in lines), part


def test_a_new_command_is_run_or_fails(run):
    command = Command('a page', ('kubectl', 'apply', '-f', 'job.yaml'))
    assert reason(command) is None
    with pytest.raises(AssertionError, match='kubectl is neither run nor listed'):
        run(*command.words)
    assert run('atss', 'show-config', 'none.py').status == 1
