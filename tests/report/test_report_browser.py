"""The report in headless Chromium: it renders, and its switches work by keyboard."""

import json

import numpy as np
import pytest

from tests.support import browser
from tests.support.report_data import written_report


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Path, analysis."""
    return written_report(tmp_path_factory.mktemp('report'))


SHOWN = (
    '[...document.querySelectorAll("#gallery .box")]'
    '.filter(b => b.checkVisibility()).map(b => [b.dataset.side, b.dataset.kind, '
    'b.dataset.label])'
)


@pytest.fixture(scope='module')
def page(written):
    with browser.page() as page:
        page.open(written[0])
        yield page
        assert not page.problems
        assert {url[:5] for url in page.requests} <= {'file:', 'data:'}
        assert [url for url in page.requests if url[:5] == 'file:'] == [
            written[0].absolute().as_uri()
        ]


@pytest.mark.browser
@pytest.mark.skipif(browser.find() is None, reason='needs chromium')
class TestInBrowser:
    def focus(self, page, selector):
        page.run(f'document.querySelector({json.dumps(selector)}).focus()')
        assert page.run(f'document.activeElement.matches({json.dumps(selector)})')

    def test_it_renders(self, page):
        assert page.run('document.querySelectorAll("section").length') == 8
        assert page.run('[...document.images].every(i => i.naturalWidth > 0)')
        assert page.run('document.documentElement.scrollWidth <= innerWidth')

    def test_the_table_sorts_by_key(self, page):
        column = 'th:nth-child(4)'
        cells = (
            '[...document.querySelectorAll(".sortable tbody tr")]'
            '.map(r => r.children[3].dataset.value)'
        )
        self.focus(page, f'.sortable {column} button')
        page.press('Enter', '\r')
        values = page.run(cells)
        assert values == sorted(values, key=float, reverse=True)
        page.press('Enter', '\r')
        assert page.run(cells) == sorted(values, key=float)
        state = f'document.querySelector(".sortable {column}").ariaSort'
        assert page.run(state) == 'ascending'

    def test_boxes_are_switched_by_key(self, page):
        before = page.run(SHOWN)
        self.focus(page, '#controls [value=truth]')
        page.press(' ', ' ')
        assert page.run(SHOWN) == [box for box in before if box[0] == 'detections']
        page.press(' ', ' ')
        assert page.run(SHOWN) == before

    def test_kinds_filter_images(self, page):
        self.focus(page, '[data-all=off]')
        page.press('Enter', '\r')
        assert page.run(SHOWN) == []
        assert page.run('document.getElementById("shown").value').startswith('0 of')
        self.focus(page, '#controls [value=localization]')
        page.press(' ', ' ')
        kinds = {kind for side, kind, _ in page.run(SHOWN) if side == 'detections'}
        assert kinds == {'localization'}
        self.focus(page, '[data-all=on]')
        page.press('Enter', '\r')

    def test_a_class_is_chosen_by_key(self, page):
        self.focus(page, '#class')
        page.press('ArrowDown')
        assert {label for *_, label in page.run(SHOWN)} == {'0'}
        page.run('document.getElementById("class").value = ""')
        page.run('showBoxes()')

    def test_curves_of_one_class(self, page):
        shown = (
            '[...document.querySelectorAll("[data-curve]")]'
            '.filter(g => getComputedStyle(g).display != "none")'
            '.map(g => g.dataset.curve)'
        )
        assert page.run(shown) == ['-1']
        self.focus(page, '#curve')
        page.press('ArrowDown')
        assert page.run(shown) == ['0']

    def test_an_image_is_enlarged(self, page):
        width = 'document.querySelector("figure .image").offsetWidth'
        before = page.run(width)
        self.focus(page, '.enlarge')
        page.press('Enter', '\r')
        assert page.run(width) > 1.2 * before
        page.press('Enter', '\r')
        assert page.run(width) == before

    @pytest.mark.parametrize('scheme', ['light', 'dark'])
    def test_contrast(self, page, scheme):
        """Text against its background: at least 4.5, as WCAG AA asks."""
        page.set_scheme(scheme)
        style = 'getComputedStyle(document.documentElement).getPropertyValue'
        values = {
            name: page.run(f'{style}("--{name}")').strip()
            for name in ('ground', 'panel', 'ink', 'soft', 'accent')
        }
        for text in ('ink', 'soft', 'accent'):
            for ground in ('ground', 'panel'):
                assert contrast(values[text], values[ground]) > 4.5
        is_dark = luminance(values['ground']) < 0.5
        assert is_dark == (scheme == 'dark')


def luminance(color):
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(
        channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4
    )
    return float(linear @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)
