"""The page about annotations: what is on it, and its keys in headless Chromium."""

import json
import re
import time

import numpy as np
import pytest

from atss_jax.commands.main import main
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.report.doctor_page import crop_around, write_doctor_page
from tests.support import browser
from tests.support.doctor_data import CORRECTIONS, written_page


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Path, and what is on the page."""
    return written_page(tmp_path_factory.mktemp('doctor'))


def test_each_suggestion_has_its_words_and_an_image(written):
    text = written[0].read_text()
    assert text.count('<figure class="suspect"') == 4
    assert text.count('src="data:image/jpeg;base64,') == 4
    assert 'a &lt;title&gt;' in text and '<title>a ' not in text
    for words in (
        '1. An object of blue has no annotation',
        'looks like green',
        'The box of red does not fit',
        '4. red is annotated twice',
        'green scores 0.80 at this place',
    ):
        assert words in text, words


def test_the_page_needs_nothing_else(written):
    text = re.sub(r'src="data:[^"]*"', '', written[0].read_text())
    assert 'src=' not in text and '://' not in text


def test_crops_lie_inside_the_image():
    """2.5 times the box, 96 pixels at least, and never outside."""
    assert crop_around(np.array([100, 100, 200, 140]), (400, 500)) == (25, 70, 275, 170)
    assert crop_around(np.array([100, 100, 110, 110]), (400, 500)) == (57, 57, 153, 153)
    assert crop_around(np.array([0, 0, 10, 10]), (30, 40)) == (0, 0, 40, 30)
    # A box that lies outside of its image still has a crop.
    left, top, right, bottom = crop_around(np.array([90, 90, 95, 95.0]), (30, 40))
    assert 0 <= left < right <= 40 and 0 <= top < bottom <= 30


def test_an_image_that_cannot_be_read_is_left_out(tmp_path):
    _, diagnosed = written_page(tmp_path)
    image_id = diagnosed.suggestions[0].image_id
    (tmp_path / 'val' / f'{image_id}.png').write_bytes(b'no image')
    page = tmp_path / 'page.html'
    assert write_doctor_page(page, diagnosed) == [f'{image_id}.png']
    count = sum(each.image_id != image_id for each in diagnosed.suggestions)
    assert page.read_text().count('<figure') == count


# In the browser -----------------------------------------------------------------------

STATES = '[...document.querySelectorAll(".suspect")].map(f => f.dataset.state)'
SHOWN = '[...document.querySelectorAll(".suspect")].findIndex(f => f.checkVisibility())'


@pytest.fixture
def page(written, tmp_path):
    with browser.page() as page:
        page.keep_downloads(tmp_path)
        page.open(written[0])
        yield page
        assert not page.problems
        assert {url[:5] for url in page.requests} <= {'file:', 'data:', 'blob:'}


def press(page, keys):
    for key in keys:
        page.press(key, key)


def saved(folder):
    """Presses have been made: waits for the file that the browser saves."""
    path, deadline = folder / CORRECTIONS, time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline, list(folder.iterdir())
        time.sleep(0.05)
    return path


@pytest.mark.browser
@pytest.mark.skipif(browser.find() is None, reason='needs chromium')
class TestInBrowser:
    def test_by_keyboard_alone_to_a_corrected_file(self, page, written, tmp_path):
        press(page, 'arua')  # the second is rejected, then not, then accepted
        assert page.run(STATES) == ['accepted', 'accepted', '', '']
        press(page, 'jrkas')  # the last is rejected, the third accepted
        assert page.run(STATES) == ['accepted'] * 3 + ['rejected']
        assert page.run('document.getElementById("saved").checkVisibility()')
        out = tmp_path / 'corrected.json'
        path = saved(tmp_path)
        assert main(['doctor', f'--apply={path}', f'--out={out}']) == 0
        folder = written[0].parent
        before = json.loads((folder / 'val.json').read_text())['annotations']
        after = json.loads(out.read_text())['annotations']
        source = CocoDataset(str(out), str(folder / 'val'))
        assert len(source.ground_truth()['annotations']) == len(before) + 1
        first, second = before[0], before[1]
        assert after[0] == first | {'category_id': 2}
        assert after[1]['id'] == second['id'] and after[1]['bbox'] != second['bbox']
        assert after[2:-1] == before[2:]
        assert after[-1]['category_id'] == 11

    def test_it_goes_back_and_forth(self, page):
        assert page.run(SHOWN) == 0
        press(page, 'jjjjj')
        assert page.run(SHOWN) == 3
        press(page, 'k')
        assert page.run(SHOWN) == 2
        text = page.run('document.getElementById("progress").value')
        assert text == '3 of 4: 0 accepted, 0 rejected, 4 undecided'
        press(page, 'u')  # nothing to undo
        assert page.run(SHOWN) == 2

    def test_buttons_do_what_keys_do(self, page):
        page.run('document.querySelector("[data-key=r]").focus()')
        page.press('Enter', '\r')
        assert page.run(STATES)[0] == 'rejected' and page.run(SHOWN) == 1
        page.run('document.querySelector("#list li:last-child button").focus()')
        page.press('Enter', '\r')
        assert page.run(SHOWN) == 3

    def test_one_kind_alone(self, page):
        page.run('document.getElementById("kind").focus()')
        for _ in range(3):
            page.press('ArrowDown')
        assert page.run('document.getElementById("kind").value') == 'loose'
        assert page.run(SHOWN) == 2
        page.run('document.activeElement.blur()')
        press(page, 'kja')
        assert page.run(SHOWN) == 2
        assert page.run(STATES) == ['', '', 'accepted', '']

    def test_a_reload_keeps_what_was_decided(self, page, written):
        press(page, 'ar')
        page.open(written[0])
        assert page.run(STATES) == ['accepted', 'rejected', '', '']

    @pytest.mark.parametrize('width', [480, 1200])
    def test_it_fits_the_window(self, page, width):
        page.set_width(width)
        assert page.run('document.documentElement.scrollWidth <= innerWidth')
        assert page.run('[...document.images].every(i => i.naturalWidth > 0)')
