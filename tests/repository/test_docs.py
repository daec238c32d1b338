"""The documentation: its commands parse, its files, links and quotes exist.

The quick start is run as it is written, only smaller.
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

from atss_jax.config import build_model, load_config, parse_overrides
from atss_jax.config.tree import flatten
from atss_jax.models.cost import CUSTOMARY, cost
from atss_jax.structures import round_up
from tests.conftest import ROOT
from tests.support import documents
from tests.support.documents import PAGES, README, Command
from tests.support.dry_run import BASE, FOLDERS, check_command

QUICKSTART = ROOT / 'docs' / 'quickstart.md'
CONFIGS = sorted((ROOT / 'configs').glob('atss_*.py'))
TROUBLESHOOTING = ROOT / 'docs' / 'troubleshooting.md'
MODELS = ROOT / 'docs' / 'models.md'
# The steps of the quick start, each once and in this order.
QUICKSTART_STEPS = ('init', 'check-data', 'train', 'eval', 'export')
# Overrides added to the commands of the quick start: all of it then takes two minutes.
SMALLER = {
    'write-shapes': ('data.train.num_images=24', 'data.val.num_images=6'),
    'train': ('data.samples_per_gpu=8', 'total_epochs=1', 'log_config.interval=1'),
}


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """The files that the pages tell their reader to write, by their path there."""
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
            assert re.search('(are|is) required', str(error)), error


@pytest.mark.parametrize(
    ('line', 'part'),
    [
        ('python trian.py --config=configs/atss_r50_1x.py', 'no trian.py'),
        ('python train.py --config=configs/atss_r51.py --workdir=w', 'atss_r51'),
        ('python train.py --config=config/atss_r50_1x.py --workdir=w', 'no config'),
        ('python train.py --config=configs/atss_r50_1x.py', 'required: --workdir'),
        ('python train.py --config=W/config.json --workdir=w --lr=1', '--lr=1'),
        (
            'python train.py --config=W/config.json --workdir=w --config.total_epoch=1',
            "mean 'total_epochs'",
        ),
        ('atss train --config=atss_r51 --workdir=w', 'atss_r51'),
        ('atss train --config=atss_r50_1x', 'required: --workdir'),
        ('python eval.py --workdir=w --config.optimizer.lr=fast', 'optimizer.lr'),
        ('atss eval --workdir=w --min_score=0.5', '--min_score goes with --report'),
        ('atss eval --workdir=w --split=dev', '--split'),
        ('atss predict a.jpg --workdir=w --out=o --score=0.5', '--score=0.5'),
        ('atss drew data --config=C --out=o.png', 'drew'),
        ('python -m atss_jax drew data --config=C --out=o.png', 'drew'),
        ('atss draw data --config=C', 'required: --out'),
        ('atss convert a b --backwards', '--backwards'),
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


def test_what_counts_as_a_command(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '# Title\n\nProse `make demo` `atss x`,\n    prose too.\n\n'
        '    X=1 make a && make b  # comment\n    make c \\\n        d\n\n'
        '```text\n    no command\n```\n\n```sh\nmake e\n```\n'
        '```python\n# my/file.py\nx = 1\n```\n'
    )
    commands = [command.words for command in documents.commands(page)]
    expected = [('make', word) for word in 'ab'] + [('make', 'c', 'd'), ('make', 'e')]
    assert commands == expected
    inline = [command.words for command in documents.inline_commands(page)]
    assert inline == [('make', 'demo'), ('atss', 'x')]
    assert documents.files_to_write(page) == {'my/file.py': '# my/file.py\nx = 1'}
    page.write_text('```\nwhat is this\n```\n')
    with pytest.raises(ValueError, match=r'page\.md:1'):
        documents.blocks(page)


# The README


def test_readme_is_short():
    """At most 700 words of prose, tables and code; link targets do not count."""
    assert 300 < documents.number_of_words(README) <= 700


def test_readme_has_one_image():
    assert README.read_text().count('![') == 1


def test_number_of_words(tmp_path):
    page = tmp_path / 'page.md'
    page.write_text(
        '# A *title*\n\n| one | two |\n|---|---|\n\n    make demo    # three words\n\n'
        '[A link](with/a/long/target.md) · [another][target]\n\n[target]: x.md\n'
    )
    assert documents.number_of_words(page) == 2 + 2 + 4 + 3


@pytest.mark.parametrize(
    'read',
    [
        documents.blocks,
        documents.commands,
        documents.inline_commands,
        documents.inline_code,
        documents.links,
    ],
)
def test_what_is_checked_occurs_in_the_pages(read):
    """Otherwise its pattern matches nothing, and checks of all pages pass."""
    assert sum(len(list(read(page))) for page in PAGES) > 20


def test_every_config_is_among_the_models():
    listed = re.findall(r'\]\(\.\./configs/(atss_\w+)\.py\)', MODELS.read_text())
    assert sorted(listed) == [path.stem for path in CONFIGS]


@pytest.mark.slow
def test_the_models_have_the_cost_that_the_page_states():
    row = re.compile(r'^\| \[`(\w+)`\].*?\| ([\d.]+) M \| ([\d.]+) G \|', re.MULTILINE)
    stated = {name: numbers for name, *numbers in row.findall(MODELS.read_text())}
    assert len(stated) == len(CONFIGS)
    counted = {}
    for name in stated:
        model = build_model(load_config(name))
        canvas = tuple(int(round_up(side, model.size_divisor)) for side in CUSTOMARY)
        parameters, multiply_adds = cost(model, [canvas])
        work = sum(multiply_adds[canvas].values())
        counted[name] = [
            f'{sum(parameters.values()) / 1e6:.1f}',
            f'{work / 1e9:.1f}',
        ]
    assert stated == counted


# Code, files, links, fields, messages


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_python_compiles_and_its_imports_exist(page):
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
def test_links_have_a_target(page):
    for link in documents.links(page):
        if link.startswith(('http:', 'https:')):
            continue
        name, _, anchor = link.partition('#')
        target = page.parent / name if name else page
        assert target.exists(), f'{page.name}: {link}'
        if anchor:
            assert anchor in documents.anchors(target), f'{page.name}: {link}'


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.name)
def test_files_named_in_sentences_exist(page, written):
    for code in documents.inline_code(page):
        if not re.fullmatch(r'[\w.]+(/[\w.-]+)*/?', code) or '/' not in code:
            continue
        is_ours = code.split('/')[0] in FOLDERS
        if is_ours or (code.endswith('.py') and code.split('/')[0] != 'work_dirs'):
            exists = (ROOT / code).exists() or (ROOT / 'atss_jax' / code).exists()
            assert exists or code in written, f'{page.name}: {code}'


def test_fields_named_in_sentences_are_fields():
    configs = [load_config(str(path)).to_dict() for path in CONFIGS]
    names = {name for config in configs for name in flatten(config)}
    fields = {field for name in names for field in _and_sections(name)}
    # These have mmdetection's fields, and a test of its own.
    others = {ROOT / 'docs' / 'mmdet.md', ROOT / 'docs' / 'config.md'}
    for page in set(PAGES) - others:
        for code in documents.inline_code(page):
            name = code.removeprefix('--config.').partition('=')[0]
            if '.' not in name or name.split('.')[0] not in fields:
                continue
            if re.fullmatch(r'[\w.]+', name) and not name.endswith(
                ('.json', '.py', '.yaml')
            ):
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
    assert len(accepted) > 5  # otherwise the pattern above matches nothing any more


def _and_sections(name):
    """`a.b.c` and the sections that contain it: a.b and a."""
    parts = name.split('.')
    return ['.'.join(parts[: k + 1]) for k in range(len(parts))]


def test_messages_of_troubleshooting_are_those_of_the_code():
    texts = documents.messages()
    page = TROUBLESHOOTING.read_text()
    quoted = re.findall(r'^\*\*`([^`]+)`', page, flags=re.MULTILINE)
    assert len(quoted) > 3
    for message in quoted:
        part = documents.without_examples(message)
        assert any(part in text for text in texts), message


# The quick start


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path):
    """Its commands in order, in an empty folder, but without the installation."""
    environment = os.environ | {'XLA_FLAGS': '', 'PYTHONPATH': str(ROOT)}
    names = []
    for command in documents.commands(QUICKSTART):
        program, *words = command.words
        if program == 'pip':
            continue
        assert program == 'atss', command
        words += [f'--config.{field}' for field in SMALLER.get(words[0], ())]
        done = subprocess.run(
            [sys.executable, '-m', 'atss_jax', *words],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f'{command}\n{done.stdout}\n{done.stderr}'
        names.append(words[0])
    assert [name for name in names if name in QUICKSTART_STEPS] == [*QUICKSTART_STEPS]
    code = '\n'.join(documents.inline_code(QUICKSTART))
    for name in re.findall(r'(?:found|my_data|work_dirs)/[\w./]+', code):
        pattern = re.sub(r'_\d+_', '_*_', name)  # the number of steps is smaller
        assert list(tmp_path.glob(pattern)), name
