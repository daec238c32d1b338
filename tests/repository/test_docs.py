"""The documentation: its commands parse, its files and links are there.

The quick start is run as it stands, only smaller.
"""

import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import sys

import pytest

from atss_jax.config import load_config, parse_overrides
from atss_jax.config.sections import flatten
from tests.conftest import ROOT
from tests.support import documents
from tests.support.documents import PAGES, Command
from tests.support.dry_run import BASE, FOLDERS, check_command

QUICKSTART = ROOT / 'docs' / 'quickstart.md'
CONFIGS = sorted((ROOT / 'configs').glob('atss_*.py'))
TROUBLE = ROOT / 'docs' / 'troubleshooting.md'
# Added to its commands, so that all of it takes two minutes.
SMALLER = {
    'write-shapes': 'data.train.num_images=24 data.val.num_images=6',
    'train.py': 'data.samples_per_gpu=8 total_epochs=1 log_config.interval=1',
}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The files that the pages tell their reader to write, by the path they give."""
    folder = tmp_path_factory.mktemp('written')
    texts = {}
    for page in PAGES:
        for name, text in documents.files_to_write(page).items():
            assert texts.setdefault(name, text) == text, f'two versions of {name}'
    files = {name: folder / name.replace('/', '_') for name in texts}
    for name, file in files.items():
        file.write_text(texts[name])
    return files


# Commands


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_every_command_parses(page, written):
    for command in documents.commands(page):
        check_command(command, written)
    for command in documents.inline_commands(page):
        try:
            check_command(command, written)
        except ValueError as error:
            assert 'arguments are required' in str(error)


@pytest.mark.parametrize(
    ('line', 'part'),
    [
        ('python trian.py --config=configs/atss_r50_1x.py', 'no trian.py'),
        (
            'python train.py --config=configs/atss_r51.py --workdir=w',
            'configs/atss_r51',
        ),
        (
            'python train.py --config=config/atss_r50_1x.py --workdir=w',
            'no config file',
        ),
        ('python train.py --config=configs/atss_r50_1x.py', 'required: --workdir'),
        ('python train.py --config=W/config.json --workdir=w --lr=1', '--lr=1'),
        (
            'python train.py --config=W/config.json --workdir=w --config.total_epoch=1',
            "mean 'total_epochs'",
        ),
        ('python eval.py --workdir=w --config.optimizer.lr=fast', 'optimizer.lr'),
        (
            'python eval.py --workdir=w --min_score=0.5',
            '--min_score goes with --report',
        ),
        ('python eval.py --workdir=w --split=dev', '--split'),
        ('python predict.py a.jpg --workdir=w --out=o --score=0.5', '--score=0.5'),
        ('python -m atss_jax drew data --config=C --out=o.png', "'drew'"),
        ('python -m atss_jax draw data --config=C', 'required: --out'),
        ('python -m atss_jax convert a b --backwards', '--backwards'),
        ('python -m atss --help', 'not ours'),
        ('python benchmarks/input.py --config=configs/atss_r50_1x.py -k', '-k'),
        ('python benchmarks/kill_resume.py --kill 3 --times 2', '--times'),
        ('make dmeo', 'dmeo'),
        ('pyhton train.py', 'not a program'),
    ],
)
def test_a_wrong_command_is_found(line, part):
    with pytest.raises(ValueError, match=re.escape(part)):
        check_command(Command('a page', tuple(shlex.split(line))), {})


def test_what_is_taken_for_a_command(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '# Title\n\nProse `make demo`,\n    prose too.\n\n'
        '    X=1 make a && make b  # comment\n    make c \\\n        d\n\n'
        '```text\n    no command\n```\n\n```sh\nmake e\n```\n'
        '```python\n# my/file.py\nx = 1\n```\n'
    )
    found = [command.words for command in documents.commands(page)]
    expected = [('make', word) for word in 'ab'] + [('make', 'c', 'd'), ('make', 'e')]
    assert found == expected
    assert [c.words for c in documents.inline_commands(page)] == [('make', 'demo')]
    assert documents.files_to_write(page) == {'my/file.py': '# my/file.py\nx = 1'}
    page.write_text('```\nwhat is this\n```\n')
    with pytest.raises(ValueError, match=r'page\.md:1'):
        documents.blocks(page)


# Code, files, links, fields, messages


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_python_compiles_and_imports_what_there_is(page):
    for block in documents.blocks(page):
        if block.kind == 'json':
            json.loads(block.text)
        if block.kind != 'python':
            continue
        tree = ast.parse(block.text, f'{page.name}:{block.line}')
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f'{node.module}.{alias.name}')


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for link in documents.links(page):
        if link.startswith(('http:', 'https:')):
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.exists(), f'{page.name}: {link}'
        if anchor:
            assert anchor in documents.anchors(target), f'{page.name}: {link}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_named_in_sentences_are_there(page, written):
    for code in documents.inline_code(page):
        if not re.fullmatch(r'[\w.]+(/[\w.-]+)*/?', code) or '/' not in code:
            continue
        is_ours = code.split('/')[0] in FOLDERS
        if is_ours or (code.endswith('.py') and code.split('/')[0] != 'work_dirs'):
            there = (ROOT / code).exists() or (ROOT / 'atss_jax' / code).exists()
            there = there or code in written
            assert there, f'{page.name}: {code}'


def test_fields_named_in_sentences_are_fields():
    configs = [load_config(str(path)).to_dict() for path in CONFIGS]
    names = {name for config in configs for name in flatten(config)}
    fields = {field for name in names for field in _and_sections(name)}
    # mmdetection's fields, and a page that has a test of its own.
    others = {ROOT / 'docs' / 'mmdet.md', ROOT / 'docs' / 'config.md'}
    for page in set(PAGES) - others:
        for code in documents.inline_code(page):
            name = code.removeprefix('--config.').partition('=')[0]
            if '.' not in name or name.split('.')[0] not in fields:
                continue
            if re.fullmatch(r'[\w.]+', name) and not name.endswith(('.json', '.py')):
                assert name in fields, f'{page.name}: {code}'


def test_overrides_named_in_sentences_are_accepted():
    generated = str(ROOT / 'configs' / 'atss_shapes.py')
    accepted = set()
    for page in PAGES:
        for code in documents.inline_code(page):
            if not re.match(r'--config\.[a-z_.]+=.', code):
                continue
            overrides = parse_overrides(shlex.split(code))
            is_generated = set(overrides) & {'data.train.num_images'}
            load_config(generated if is_generated else BASE, overrides)
            accepted.update(overrides)
    assert len(accepted) > 5  # else the pattern above finds nothing any more


def _and_sections(name):
    """`a.b.c` and the sections a.b and a that it lies in."""
    parts = name.split('.')
    return ['.'.join(parts[: k + 1]) for k in range(len(parts))]


def test_messages_of_troubleshooting_are_those_of_the_code():
    known = documents.messages()
    quoted = re.findall(r'^\*\*`([^`]+)`', TROUBLE.read_text(), flags=re.MULTILINE)
    assert len(quoted) > 3
    for message in quoted:
        part = documents.without_examples(message)
        assert any(part in text for text in known), message


# The quick start


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path):
    """Its commands in order, in a folder of their own; only the install is left out."""
    for path in [*ROOT.glob('*.py'), ROOT / 'atss_jax', ROOT / 'configs']:
        (tmp_path / path.name).symlink_to(path)
    for name, text in documents.files_to_write(QUICKSTART).items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    environment = os.environ | {'XLA_FLAGS': ''}
    ran = []
    for command in documents.commands(QUICKSTART):
        program, *words = command.words
        if program != 'python':
            assert program in ('make', '.'), command
            continue
        fields = [SMALLER[word] for word in words if word in SMALLER]
        words += [f'--config.{field}' for some in fields for field in some.split()]
        done = subprocess.run(
            [sys.executable, *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
        ran.append(words)
    assert len(ran) >= 6
    for name in re.findall(r'(?:found|my_data|work_dirs)/[\w./]+', _said(QUICKSTART)):
        pattern = re.sub(r'_\d+_', '_*_', name)  # the step is another
        assert list(tmp_path.glob(pattern)), name


def _said(page):
    """Inline code of a page, as one text."""
    return '\n'.join(documents.inline_code(page))
