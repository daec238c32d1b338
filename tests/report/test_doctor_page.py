"""The page about annotations: what is on it, and its keys in headless Chromium."""

import dataclasses
import json
import re
import time

import numpy as np
import pytest

from atss_jax.commands.main import main
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.report.doctor_page import crop_around, write_doctor_page
from tests.support import browser
from tests.support.doctor_data import CORRECTED, CORRECTIONS, UNKNOWN, written_page


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


def test_names_of_files_are_escaped(written, tmp_path):
    name, command = '<b>a & b</b>.json', "atss doctor --apply='<b>' --out=c.json"
    changed = {'file_name': name, 'apply_command': command}
    path = tmp_path / 'page.html'
    write_doctor_page(path, dataclasses.replace(written[1], **changed))
    text = path.read_text()
    assert 'Saved &lt;b&gt;a &amp; b&lt;/b&gt;.json where' in text
    assert '<code>atss doctor --apply=&#x27;&lt;b&gt;&#x27;' in text
    assert '<b>' not in text


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


def choose(page, kind):
    """Chooses a kind, as a mouse does."""
    page.run(
        f'kind.value = "{kind}"; kind.focus(); kind.dispatchEvent(new Event("change"))'
    )


def press(page, keys):
    for key in keys:
        page.press(key, key)


def saved(folder, name=CORRECTED):
    """Presses have been made: waits for the file that the browser saves."""
    path, deadline = folder / name, time.monotonic() + 30
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
        path, folder = saved(tmp_path), written[0].parent
        content = json.loads((folder / 'val.json').read_text())
        corrected = json.loads(path.read_text())
        before, after = content['annotations'], corrected['annotations']
        assert corrected == {**content, 'annotations': after}
        assert corrected['unknown'] == UNKNOWN  # Python's numbers are exact
        source = CocoDataset(str(path), str(folder / 'val'))
        assert len(source.ground_truth()['annotations']) == len(before) + 1
        first, second = before[0], before[1]
        assert after[0] == first | {'category_id': 2}
        assert after[1]['id'] == second['id'] and after[1]['bbox'] != second['bbox']
        assert after[2:-1] == before[2:]
        assert after[-1]['category_id'] == 11

    @pytest.mark.parametrize('keys', ['aaaas', 'raras', 'arrrs', 'jaaas', 's'])
    def test_it_saves_what_the_command_writes(self, page, tmp_path, keys):
        """The same decisions give it as --apply does with what a large page saves."""
        press(page, keys)
        corrected = json.loads(saved(tmp_path).read_text())
        large = tmp_path / 'large'
        page.open(written_page(large, is_embedded=False)[0])
        press(page, keys)
        path, out = saved(tmp_path, CORRECTIONS), tmp_path / 'out.json'
        assert main(['doctor', f'--apply={path}', f'--out={out}']) == 0
        assert json.loads(out.read_text()) == corrected
        source = CocoDataset(str(tmp_path / CORRECTED), str(large / 'val'))
        count = len(corrected['annotations'])
        assert len(source.ground_truth()['annotations']) == count

    def test_nothing_to_decide(self, page, tmp_path):
        """A page without suggestions saves the annotations as they are."""
        path = written_page(tmp_path / 'none', kinds=())[0]
        page.open(path)
        assert page.run('document.getElementById("progress").value') == (
            'nothing to decide'
        )
        press(page, 'arujks')
        corrected = json.loads(saved(tmp_path).read_text())
        assert corrected == json.loads((path.parent / 'val.json').read_text())

    def test_a_kind_without_suggestions(self, page, tmp_path):
        page.open(written_page(tmp_path / 'few', kinds=('missing', 'loose'))[0])
        choose(page, 'twice')
        assert page.run(SHOWN) == -1
        text = page.run('document.getElementById("progress").value')
        assert text.startswith('none of this kind: 0 accepted')
        press(page, 'arjk')
        page.run('document.querySelector("[data-key=a]").click()')
        assert page.run(STATES) == ['', '']
        choose(page, '')
        press(page, 'a')
        assert page.run(STATES) == ['accepted', '']

    @pytest.mark.parametrize('key', ['a', 'Enter'])
    def test_a_key_that_is_held_down_decides_once(self, page, key):
        page.run('document.querySelector("[data-key=a]").focus()')
        text = '\r' if key == 'Enter' else key
        code = 13 if key == 'Enter' else ord(key.upper())
        for is_repeat in (False, True, True):
            page.call(
                'Input.dispatchKeyEvent',
                type='keyDown',
                key=key,
                text=text,
                windowsVirtualKeyCode=code,
                autoRepeat=is_repeat,
            )
        assert page.run(STATES) == ['accepted', '', '', '']

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
        assert page.run('document.activeElement.id') == 'kind'
        press(page, 'kja')  # keys act there too
        assert page.run('document.getElementById("kind").value') == 'loose'
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
