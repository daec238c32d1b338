"""The documentation as a website: every link leads somewhere. Built by `make site`."""

import html.parser
import urllib.parse

import pytest

from tests.conftest import ROOT

SITE = ROOT / '.cache' / 'site'

pytestmark = pytest.mark.site


class _Page(html.parser.HTMLParser):
    """The targets of links and images of a page, and its anchors."""

    def __init__(self, path):
        super().__init__()
        self.targets, self.anchors = [], {''}
        self.feed(path.read_text(encoding='utf-8'))

    def handle_starttag(self, tag, attributes):
        for name, value in attributes:
            if name in ('href', 'src') and value:
                self.targets.append(value)
            elif name == 'id':
                self.anchors.add(value)


@pytest.fixture(scope='module')
def pages():
    assert SITE.is_dir(), 'make site builds it'
    paths = [path for path in SITE.rglob('*.html') if path.name != '404.html']
    return {path: _Page(path) for path in paths}


def test_every_page_of_the_documentation_is_there(pages):
    names = {path.relative_to(SITE).as_posix() for path in pages}
    expected = {f'{path.stem}.html' for path in (ROOT / 'docs').glob('*.md')}
    expected |= {f'configs/{p.stem}.html' for p in (ROOT / 'configs').glob('atss_*.py')}
    assert expected | {'index.html', 'changelog.html', 'benchmarks.html'} <= names


def test_every_link_has_a_target(pages):
    dead, followed = [], 0
    for path, page in pages.items():
        for target in page.targets:
            url = urllib.parse.urlsplit(target)
            if url.scheme or url.netloc:
                continue
            place = path
            if url.path:
                place = (path.parent / urllib.parse.unquote(url.path)).resolve()
            if place.is_dir():
                place /= 'index.html'
            anchor = urllib.parse.unquote(url.fragment)
            followed += 1
            if not place.is_file():
                dead.append(f'{path.name}: {target}')
            elif place in pages and anchor not in pages[place].anchors:
                dead.append(f'{path.name}: {target}, no such anchor')
    assert dead == []
    assert followed > 500


def test_no_page_asks_another_server(pages):
    """Links may lead there; scripts, styles and images may not."""
    for path in pages:
        text = path.read_text(encoding='utf-8')
        assert 'src="http' not in text, path
        assert 'rel="stylesheet" href="http' not in text, path
