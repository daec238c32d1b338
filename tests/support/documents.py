"""Extracts commands, code, links and quoted messages from the documentation.

Blocks indented by four spaces and fenced blocks marked `sh` are shell commands; output
is fenced and marked `text`. A fenced `python` block that begins with the path of a file
as a comment, `# folder/file.py`, is a file that the reader is told to write.
"""

import ast
import dataclasses
import itertools
import pathlib
import re
import shlex

from tests.conftest import ROOT

PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')])
LANGUAGES = ('sh', 'text', 'python', 'json')


@dataclasses.dataclass(frozen=True)
class Block:
    """A code block that starts at `line` of a page; `kind` is one of `LANGUAGES`."""

    page: pathlib.Path
    line: int
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """The words of one command, and its place in the documentation."""

    place: str
    words: tuple[str, ...]

    def __str__(self):
        return f'{self.place}: {shlex.join(self.words)}'


def _kinds(page):
    """Kind ('prose', 'fence', 'indented' or the fence's language) and text of lines."""
    kind, before = 'prose', ''
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
            is_possible = kind == 'indented' or not before.strip()
            is_code = line.startswith('    ') and is_possible
            kind = 'indented' if is_code else 'prose'
            yield kind, line
        before = line


def blocks(page: pathlib.Path) -> list[Block]:
    """All code blocks of a page.

    Raises:
        ValueError: a fenced block is not marked with one of `LANGUAGES`.
    """
    result, number = [], 1
    for kind, group in itertools.groupby(_kinds(page), key=lambda pair: pair[0]):
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
    return '\n'.join(line for kind, line in _kinds(page) if kind == 'prose')


def commands(page: pathlib.Path) -> list[Command]:
    """All commands in code blocks, without comments and variable assignments."""
    return [
        command
        for block in blocks(page)
        if block.kind == 'sh'
        for command in _commands(block)
    ]


def _commands(block):
    place = f'{block.page.name}:{block.line}'
    for line in re.sub(r'\\\n\s*', '', block.text).splitlines():
        words = shlex.split(line, comments=True)
        for is_end, group in itertools.groupby(words, key=lambda word: word == '&&'):
            is_set = re.compile('[A-Z_]+=').match
            command = list(itertools.dropwhile(is_set, group))
            if command and not is_end:
                yield Command(place, tuple(command))


def inline_code(page: pathlib.Path) -> list[str]:
    """The text between single backticks."""
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose(page))


def inline_commands(page: pathlib.Path) -> list[Command]:
    """Commands within sentences, which may lack flags, except those with `...`."""
    found = [code for code in inline_code(page) if re.match('(python|make) ', code)]
    return [
        Command(page.name, tuple(shlex.split(code)))
        for code in found
        if '...' not in code
    ]


def files_to_write(page: pathlib.Path) -> dict[str, str]:
    """Paths and contents of the files that a page tells its reader to write."""
    python = [block.text for block in blocks(page) if block.kind == 'python']
    named = [(re.match(r'# (\S+/\S+\.py)$', text, re.M), text) for text in python]
    return {match[1]: text for match, text in named if match}


def anchors(page: pathlib.Path) -> set[str]:
    """The anchors of the headings of a page, as GitHub generates them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), flags=re.MULTILINE)
    kept = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
    return {heading.replace(' ', '-') for heading in kept}


def links(page: pathlib.Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r'\]\(([^)\s]+)\)', prose(page))


def messages() -> list[str]:
    """Every string in the code, with `#` for the formatted values."""
    found = []
    for path in [*ROOT.glob('*.py'), *(ROOT / 'atss_jax').rglob('*.py')]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(_without_numbers(node.value))
            elif isinstance(node, ast.JoinedStr):
                parts = [getattr(part, 'value', '#') for part in node.values]
                parts = [part if isinstance(part, str) else '#' for part in parts]
                found.append(_without_numbers(''.join(parts)))
    return found


def without_examples(message: str) -> str:
    """A quoted message with `#` for its numbers, splits, capitals and `...`."""
    message = re.sub(r'\bdata\.(train|val|test)\b', 'data.#', message)
    return _without_numbers(re.sub(r'\.\.\.|\b[A-Z]\b', '#', message))


def _without_numbers(text):
    return re.sub(r'(#|[\d.]*\d)+', '#', text)
