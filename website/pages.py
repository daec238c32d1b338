"""Hooks of mkdocs: pages and files that do not lie in docs/, and links to them.

The pages are written to be read in the repository, where links lead to files. On the
website README.md, CHANGELOG.md, benchmarks/RESULTS.md and each config have a page.
"""

import pathlib
import re

from mkdocs.structure.files import File

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_PAGES = {
    'README.md': 'index.md',
    'CHANGELOG.md': 'changelog.md',
    'benchmarks/RESULTS.md': 'benchmarks.md',
}
_LINK = re.compile(r'(\]\(|\]: )([^)\s]+)')


def on_files(files, config):
    """Adds the pages, the images next to RESULTS.md, and the notebook."""
    for source, page in _PAGES.items():
        text = (_ROOT / source).read_text(encoding='utf-8')
        folder = pathlib.PurePosixPath(source).parent
        files.append(File.generated(config, page, content=_relinked(text, folder)))
    for path in sorted((_ROOT / 'configs').glob('atss_*.py')):
        text = f'# {path.stem}\n\n```python\n{path.read_text(encoding="utf-8")}```\n'
        files.append(File.generated(config, f'configs/{path.stem}.md', content=text))
    for path in sorted((_ROOT / 'benchmarks').glob('*.png')):
        image = File.generated(config, path.name, abs_src_path=str(path))
        files.append(image)
    for path in sorted((_ROOT / 'notebooks').glob('*.ipynb')):
        name = f'notebooks/{path.name}'
        files.append(File.generated(config, name, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown, page, config, files):
    """Links of the pages of docs/; the others were made right when they were added."""
    if page.file.generated_by is None:
        return _relinked(markdown, pathlib.PurePosixPath('docs'))
    return markdown


def _relinked(text, folder):
    """Markdown whose links to files of the repository lead to pages of the website."""

    def replace(match):
        start, target = match.groups()
        path, mark, anchor = target.partition('#')
        if '://' in target or not path:
            return match.group()
        return f'{start}{_page_of(_joined(folder, path))}{mark}{anchor}'

    return _LINK.sub(replace, text)


def _joined(folder, path):
    """A relative path from the root of the repository."""
    parts = []
    for part in (*folder.parts, *pathlib.PurePosixPath(path).parts):
        if part == '..':
            parts.pop()
        elif part != '.':
            parts.append(part)
    return '/'.join(parts)


def _page_of(path):
    if path in _PAGES:
        return _PAGES[path]
    if path.startswith('configs/') and path.endswith('.py'):
        return path.removesuffix('.py') + '.md'
    return path.removeprefix('docs/').removeprefix('benchmarks/')
