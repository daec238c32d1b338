"""The commands of the documentation run, but for those that say here why they cannot.

They are run as they stand, in a folder where what they name is there, small: see
`tests/support/stand_in.py`. The quick start has a test of its own in `test_docs.py`.
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

# What cannot be run here, and why. All else is run.
NOT_RUN = {
    r'make install': 'needs a network',
    r'make demo': 'takes minutes; tests/commands/test_demo.py looks at what it leaves',
    r'make test': 'is these tests, and others',
    r'make mmdet-env': 'needs a network, and compiles for half an hour',
    r'\. \.venv': 'is of the shell',
    r'pip install': 'needs a network',
    r'python -m atss_jax download-coco': 'needs a network: test_download_coco.py',
    r'python -m atss_jax (draw|flops)$': 'is a name in a sentence, without its flags',
    r'gcloud |gsutil ': 'needs a bucket',
    r'python train.py .*gs://': 'needs a bucket: test_tfds.py',
    r'python train.py .*--coordinator': 'needs four hosts: test_cluster.py',
    r'launch/': 'needs a cluster: tests/distributed/test_launch.py',
    r'python benchmarks/(?!input.py --config|scaling_model)': 'measures, for minutes',
}
# What is of the reader's own run, machine or shell.
IN_PLACE_OF = {
    '9000': '6',
    '13': '3',
    '--config=C': '--config=W/config.json',
    '--profile=100:105': '--profile=2:3',
    '--workdir=/shared/work_dirs/atss_r50_1x': '--workdir=work_dirs/shared',
}
TESTED = [page for page in PAGES if page.name != 'quickstart.md']


def reason(command: Command) -> str | None:
    """Why a command is not run; None if it is."""
    line = ' '.join(command.words)
    return next((NOT_RUN[part] for part in NOT_RUN if re.match(part, line)), None)


def all_commands(page: pathlib.Path) -> list[Command]:
    return documents.commands(page) + documents.inline_commands(page)


def to_run(page: pathlib.Path) -> list[list[str]]:
    """The words of each command of a page, each once."""
    found = [
        tuple(IN_PLACE_OF.get(word, word) for word in command.words if word != '...')
        for command in all_commands(page)
        if reason(command) is None
    ]
    return [list(words) for words in dict.fromkeys(found)]


def marked(page):
    """Pages that train, export or measure take long."""
    slow = ('train.py', 'export', 'benchmarks/input.py')
    is_slow = any(word in words for words in to_run(page) for word in slow)
    return pytest.param(page, marks=pytest.mark.slow if is_slow else ())


@pytest.fixture
def run(call, monkeypatch, tmp_path):
    """Runs the words of a command in the stand-in: as its program's `main()`."""

    def run(program, *words):
        if program != 'python':
            raise AssertionError(f'{program} is neither run nor listed in NOT_RUN')
        name, *flags = words[1:] if words[0] == '-m' else words
        # Exporting knows free sizes, which the checks of shapes in this process do not.
        if name.startswith('benchmarks/') or 'export' in flags[:1]:
            done = subprocess.run(
                [sys.executable, *words], cwd=tmp_path, capture_output=True, text=True
            )
            return Result(done.returncode, done.stdout, done.stderr)
        # What is said of the recipes alone, the real ones say.
        of_recipes = flags[0] in ('show-config', 'flops')
        monkeypatch.chdir(ROOT if of_recipes else tmp_path)
        return call(name.removesuffix('.py'), *flags)

    return run


@pytest.fixture
def folder(small_data, small_run, tmp_path):
    """The stand-in."""
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
        for path in written_by(words):
            assert (folder / path).exists(), f'{shlex.join(words)} wrote no {path}'


def written_by(words):
    """Values of --out and --workdir."""
    flags = '\n'.join(words)
    return re.findall(r'^--(?:out|workdir)[=\n](.+)$', flags, flags=re.MULTILINE)


def prepare(page, folder, run):
    """What other pages, or the reader, would have done before."""
    commands = to_run(page)
    for words in commands:
        if 'train.py' in words:
            for path in written_by(words):
                shutil.rmtree(folder / path, ignore_errors=True)
    if any('epoch_12.pth' in words for words in commands):
        run('python', '-m', 'atss_jax', 'convert', 'W', 'epoch_12.pth', '--momentum')
    if page.name == 'data.md':
        words = next(words for words in commands if 'mine:1.0.0' in words)
        other = {'train': 'validation', 'mine/train.json': 'mine/val.json'}
        assert run(*(other.get(word, word) for word in words)).status == 0


def test_every_reason_is_of_a_command():
    known = [' '.join(c.words) for page in TESTED for c in all_commands(page)]
    for part in NOT_RUN:
        assert any(re.match(part, line) for line in known), part


def test_a_new_command_is_run_or_fails(run):
    command = Command('a page', ('kubectl', 'apply', '-f', 'job.yaml'))
    assert reason(command) is None
    with pytest.raises(AssertionError, match='kubectl is neither run nor listed'):
        run(*command.words)
    assert run('python', '-m', 'atss_jax', 'show-config', 'none.py').status == 1
