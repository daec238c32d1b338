"""What the pages of the documentation contain: commands, code, links, quoted messages.

Blocks indented by four spaces, and fenced ones marked sh, are shell commands; output is
fenced and marked text. A fenced python block that begins with a comment of a path,
`# folder/file.py`, is a file that the reader is told to write.
"""

import ast
import dataclasses
import itertools
import pathlib
import re
import shlex
from collections.abc import Iterator, Sequence

from tests.conftest import ROOT

README = ROOT / 'README.md'
CHANGELOG = ROOT / 'CHANGELOG.md'
RESULTS = ROOT / 'benchmarks' / 'RESULTS.md'
PAGES = [README, CHANGELOG, RESULTS, *sorted((ROOT / 'docs').glob('*.md'))]
LANGUAGES = ('sh', 'text', 'python', 'json')


@dataclasses.dataclass(frozen=True)
class Block:
    """A block of a page: its first line, its kind (one of `LANGUAGES`) and its text."""

    page: pathlib.Path
    line: int
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """The words of one command, and the place where it is documented."""

    place: str
    words: tuple[str, ...]

    def __str__(self):
        return f'{self.place}: {shlex.join(self.words)}'


def _lines_with_kind(page: pathlib.Path) -> Iterator[tuple[str, str]]:
    """Yield each line after its kind: 'prose', 'fence', 'indented', or a language."""
    kind, previous = 'prose', ''
    for number, line in enumerate(page.read_text().splitlines(), start=1):
        fence = re.fullmatch(r'```(\w*)', line)
        if kind in LANGUAGES:
            yield 'fence' if fence else kind, line
            kind = 'prose' if fence else kind
        elif fence:
            kind = fence[1]
            if kind not in LANGUAGES:
                raise ValueError(
                    f'{page.name}:{number}: mark ``` by one of {LANGUAGES}'
                )
            yield 'fence', line
        else:
            may_be_code = kind == 'indented' or not previous.strip()
            is_code = line.startswith('    ') and may_be_code
            kind = 'indented' if is_code else 'prose'
            yield kind, line
        previous = line


def blocks(page: pathlib.Path) -> list[Block]:
    """All code blocks of a page.

    Raises:
        ValueError: a fenced block is not marked by one of `LANGUAGES`.
    """
    result, number = [], 1
    for kind, group in itertools.groupby(
        _lines_with_kind(page), key=lambda pair: pair[0]
    ):
        lines = [line for _, line in group]
        if kind == 'indented':
            text = '\n'.join(line[4:] for line in lines)
            result.append(Block(page, number, 'sh', text))
        elif kind in LANGUAGES:
            result.append(Block(page, number, kind, '\n'.join(lines)))
        number += len(lines)
    return result


def prose(page: pathlib.Path) -> str:
    """The text of a page without its code blocks."""
    return '\n'.join(line for kind, line in _lines_with_kind(page) if kind == 'prose')


def number_of_words(page: pathlib.Path) -> int:
    """Words that a reader sees: prose, tables and code, without targets of links."""
    text = re.sub(r'^\[\w+\]: .*$', '', page.read_text(), flags=re.MULTILINE)
    text = re.sub(r'\]\([^)]*\)|\]\[\w*\]', ']', text)
    return sum(bool(re.search(r'\w', word)) for word in re.split(r'[\s|]+', text))


def commands(page: pathlib.Path) -> list[Command]:
    """All commands in blocks, without comments and without variables set before."""
    return [
        command
        for block in blocks(page)
        if block.kind == 'sh'
        for command in _commands_of_block(block)
    ]


def _commands_of_block(block):
    place = f'{block.page.name}:{block.line}'
    for line in re.sub(r'\\\n\s*', '', block.text).splitlines():
        words = shlex.split(line, comments=True)
        for is_end, group in itertools.groupby(words, key=lambda word: word == '&&'):
            sets_variable = re.compile('[A-Z_]+=').match
            command = list(itertools.dropwhile(sets_variable, group))
            if command and not is_end:
                yield Command(place, tuple(command))


SCRIPTS = {'train.py': 'train', 'eval.py': 'eval', 'predict.py': 'predict'}


def arguments_of_atss(words: Sequence[str]) -> list[str] | None:
    """The arguments of `atss` that a command stands for; None for other programs.

    `atss train ...`, `python -m atss_jax train ...` and `python train.py ...` are the
    same.
    """
    match list(words):
        case ['atss', *arguments]:
            return arguments
        case ['python', '-m', 'atss_jax', *arguments]:
            return arguments
        case ['python', script, *arguments] if script in SCRIPTS:
            return [SCRIPTS[script], *arguments]
    return None


def inline_code(page: pathlib.Path) -> list[str]:
    """Everything between single backticks."""
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose(page))


def inline_commands(page: pathlib.Path) -> list[Command]:
    """Commands within sentences, which may lack flags; none with `...` in them."""
    lines = [
        code for code in inline_code(page) if re.match('(atss|python|make) ', code)
    ]
    return [
        Command(page.name, tuple(shlex.split(line)))
        for line in lines
        if '...' not in line
    ]


def files_to_write(page: pathlib.Path) -> dict[str, str]:
    """Path to content of the files that a page tells its reader to write."""
    python = [block.text for block in blocks(page) if block.kind == 'python']
    named = [(re.match(r'# (\S+/\S+\.py)$', text, re.M), text) for text in python]
    return {match[1]: text for match, text in named if match}


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), flags=re.MULTILINE)
    cleaned = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
    return {heading.replace(' ', '-') for heading in cleaned}


def links(page: pathlib.Path) -> list[str]:
    """Targets of links and images."""
    text = prose(page)
    references = re.findall(r'^\[\w+\]: (\S+)$', text, flags=re.MULTILINE)
    return re.findall(r'\]\(([^)\s]+)\)', text) + references


def messages() -> list[str]:
    """Every text in the code, with `#` for its numbers and inserted values."""
    result = []
    for path in [*ROOT.glob('*.py'), *(ROOT / 'atss_jax').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                result.append(_without_numbers(node.value))
            elif isinstance(node, ast.JoinedStr):
                values = [getattr(part, 'value', '#') for part in node.values]
                texts = [value if isinstance(value, str) else '#' for value in values]
                result.append(_without_numbers(''.join(texts)))
    return result


def without_examples(message: str) -> str:
    """A quoted message with `#` for its numbers, splits, capitals and `...`."""
    message = re.sub(r'\bdata\.(train|val|test)\b', 'data.#', message)
    return _without_numbers(re.sub(r'\.\.\.|\b[A-Z]\b', '#', message))


def _without_numbers(text):
    return re.sub(r'(#|[\d.]*\d)+', '#', text)
