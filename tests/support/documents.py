"""What the pages of the documentation hold: commands, code, links, quoted messages.

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

from tests.conftest import ROOT

PAGES = sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')])
LANGUAGES = ('sh', 'text', 'python', 'json')


@dataclasses.dataclass(frozen=True)
class Block:
    """Lines set apart, from `line` of a page on; `kind` is one of `LANGUAGES`."""

    page: pathlib.Path
    line: int
    kind: str
    text: str


@dataclasses.dataclass(frozen=True)
class Command:
    """The words of one command, and where it stands."""

    place: str
    words: tuple[str, ...]

    def __str__(self):
        return f'{self.place}: {shlex.join(self.words)}'


def _kinds(page):
    """Of each line: 'prose', 'fence', 'indented', or the language of its fence."""
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
            may_be = kind == 'indented' or not before.strip()
            is_code = line.startswith('    ') and may_be
            kind = 'indented' if is_code else 'prose'
            yield kind, line
        before = line


def blocks(page: pathlib.Path) -> list[Block]:
    """Everything that is set apart on a page.

    Raises:
        ValueError: a fenced block is not marked by a language that we know.
    """
    found, number = [], 1
    for kind, group in itertools.groupby(_kinds(page), key=lambda pair: pair[0]):
        lines = [line for _, line in group]
        if kind == 'indented':
            text = '\n'.join(line[4:] for line in lines)
            found.append(Block(page, number, 'sh', text))
        elif kind in LANGUAGES:
            found.append(Block(page, number, kind, '\n'.join(lines)))
        number += len(lines)
    return found


def prose(page: pathlib.Path) -> str:
    """A page without its blocks."""
    return '\n'.join(line for kind, line in _kinds(page) if kind == 'prose')


def commands(page: pathlib.Path) -> list[Command]:
    """All commands in blocks, without comments and without variables set before."""
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
            own = list(itertools.dropwhile(is_set, group))
            if own and not is_end:
                yield Command(place, tuple(own))


def inline_code(page: pathlib.Path) -> list[str]:
    """What stands between single backticks."""
    return re.findall(r'(?<!`)`([^`\n]+)`(?!`)', prose(page))


def inline_commands(page: pathlib.Path) -> list[Command]:
    """Commands within sentences, which may lack flags; none with `...` in them."""
    found = [code for code in inline_code(page) if re.match('(python|make) ', code)]
    return [
        Command(page.name, tuple(shlex.split(code)))
        for code in found
        if '...' not in code
    ]


def files_to_write(page: pathlib.Path) -> dict[str, str]:
    """Path to content of the files that a page tells its reader to write."""
    python = [block.text for block in blocks(page) if block.kind == 'python']
    named = [(re.match(r'# (\S+/\S+\.py)$', text, re.M), text) for text in python]
    return {match[1]: text for match, text in named if match}


def anchors(page: pathlib.Path) -> set[str]:
    """What a link to a heading of a page may name, as GitHub makes them."""
    headings = re.findall(r'^#+ (.+)$', page.read_text(), flags=re.MULTILINE)
    kept = (re.sub(r'[^\w\- ]', '', heading.lower()) for heading in headings)
    return {heading.replace(' ', '-') for heading in kept}


def links(page: pathlib.Path) -> list[str]:
    """Targets of links and images."""
    return re.findall(r'\]\(([^)\s]+)\)', prose(page))


def messages() -> list[str]:
    """Every text in the code, with `#` for what is put into it."""
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
