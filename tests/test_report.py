"""The report says what was computed, needs nothing else, and works in a browser."""

import html.parser
import json
import re
import shutil

import numpy as np
import pytest

from atss_jax.data.coco import CocoDataset
from atss_jax.evaluation.report import write_report
from tests import browser
from tests.small_run import CATEGORY_IDS, CLASSES, write_coco
from tests.test_cli import call  # noqa: F401, a fixture


def some_results(truth, seed=0):
    """Found boxes near the objects: some right, some shifted, some of other classes."""
    random = np.random.default_rng(seed)
    results = []
    for index, annotation in enumerate(truth['annotations']):
        x, y, width, height = annotation['bbox']
        shift = (0, 0, 0, 0.5 * width)[index % 4]
        category = CATEGORY_IDS[index % 3] if index % 5 == 0 else None
        results.append(
            {
                'image_id': annotation['image_id'],
                'category_id': category or annotation['category_id'],
                'bbox': [x + shift, y, width, height],
                'score': round(float(random.uniform(0.2, 0.95)), 3),
            }
        )
    return results[:-2]  # two are missed


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp('report')
    write_coco(folder, 'val', 9, seed=3)
    return folder


def open_data(folder):
    return CocoDataset(str(folder / 'val.json'), str(folder / 'val'), test_mode=True)


@pytest.fixture(scope='module')
def written(data):
    """Path, analysis."""
    source, path = open_data(data), data / 'report.html'
    results = some_results(source.ground_truth())
    return path, write_report(path, source, results, 'a <title>', 0.3)


class Elements(html.parser.HTMLParser):
    """Every element's name and attributes; checks that all are closed in order."""

    VOID = ('meta', 'link', 'img', 'input', 'path', 'rect')

    def __init__(self, text):
        super().__init__()
        self.found, self.open = [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag in self.VOID:
            return
        # The end of a cell may be left out.
        while self.open and self.open[-1] in ('th', 'td') and tag != self.open[-1]:
            self.open.pop()
        assert self.open.pop() == tag


def elements(path, tag):
    return [a for name, a in Elements(path.read_text()).found if name == tag]


def test_it_needs_nothing_else(written):
    path, _ = written
    links = [
        a.get(name)
        for tag in ('img', 'link', 'script', 'a')
        for a in elements(path, tag)
        for name in ('src', 'href')
    ]
    links = [link for link in links if link]
    assert links and all(link.startswith(('data:', '#')) for link in links)
    assert not re.search(r'@import|url\(|https?://(?!www\.w3\.org)', path.read_text())


def test_every_number_is_in_it(written):
    path, analysis = written
    text = path.read_text()
    for name, value in analysis.scores.summary.items():
        shown = '-' if np.isnan(value) else f'{value:.3f}'
        assert f'<dt>{name}</dt><dd>{shown}</dd>' in text
    for kind, gain in analysis.errors.gains.items():
        assert f'+{gain:.3f} ({analysis.errors.counts[kind]})' in text
    assert analysis.errors.counts['classification'] > 0
    assert analysis.errors.counts['localisation'] > 0
    assert f'{analysis.errors.ap50:.3f}' == f'{analysis.scores.summary["AP50"]:.3f}'


def test_boxes_lie_where_they_are_on_the_picture(written):
    path, analysis = written
    boxes = [a for a in elements(path, 'div') if 'data-side' in a]
    assert len(boxes) == sum(
        len(analysis.pictures[id_][0].boxes) + len(analysis.pictures[id_][0].scores)
        for id_ in analysis.worst
    )
    picture, _ = analysis.pictures[analysis.worst[0]]
    x1, y1, x2, y2 = picture.boxes[0]
    width, height = (
        int(elements(path, 'img')[0][name]) for name in ('width', 'height')
    )
    style = dict(part.split(':') for part in boxes[0]['style'].split(';'))
    numbers = [float(style[name][:-1]) for name in ('left', 'top', 'width', 'height')]
    expected = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    assert numbers == pytest.approx([100 * value for value in expected], abs=0.01)


def test_names_are_text_not_markup(data, tmp_path):
    content = json.loads((data / 'val.json').read_text())
    content['categories'][0]['name'] = '<script>alert("x")</script>$title'
    content['images'][0]['file_name'] = '../val/' + content['images'][0]['file_name']
    (tmp_path / 'val.json').write_text(json.dumps(content))
    source = CocoDataset(str(tmp_path / 'val.json'), str(data / 'val'), test_mode=True)
    path = tmp_path / 'report.html'
    write_report(path, source, some_results(content), '</title><b>', 0)
    assert len(elements(path, 'script')) == 1 and not elements(path, 'b')
    assert '&lt;script&gt;alert' in path.read_text()


def test_a_damaged_picture_is_named_and_the_rest_shown(data, tmp_path):
    source = open_data(data)
    results, path = some_results(source.ground_truth()), tmp_path / 'report.html'
    worst = write_report(path, source, results, 'all', 0.3).worst
    before = len(elements(path, 'img'))

    class Damaged(CocoDataset):
        def read_image(self, record):
            if record.image_id == worst[0]:
                raise FileNotFoundError
            return super().read_image(record)

    source = Damaged(str(data / 'val.json'), str(data / 'val'), test_mode=True)
    write_report(path, source, results, 'one less', 0.3)
    assert len(elements(path, 'img')) == before - 1
    assert f'Could not be read: {worst[0]}.png' in path.read_text()


def test_nothing_wrong_and_nothing_found(data, tmp_path):
    source, path = open_data(data), tmp_path / 'report.html'
    truth = source.ground_truth()
    right = [
        {**{k: a[k] for k in ('image_id', 'category_id', 'bbox')}, 'score': 0.9}
        for a in truth['annotations']
    ]
    analysis = write_report(path, source, right, 'all right', 0.3)
    assert analysis.errors.ap50 == 1 and not any(analysis.errors.gains.values())
    assert 'No picture has an error' in path.read_text()
    analysis = write_report(path, source, [], 'nothing', 0.3)
    assert analysis.errors.gains['missed'] == 1
    assert {
        state['data-kind'] for state in elements(path, 'div') if 'data-kind' in state
    } <= {'missed', 'crowd'}


class TestResultsFile:
    """`eval.py --results`."""

    @pytest.fixture
    def score(self, call, data, tmp_path):  # noqa: F811
        def run(content, *flags):
            path = tmp_path / 'detections.json'
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text)
            truth = f'--ann_file={data / "val.json"}'
            return call('eval', f'--results={path}', truth, *flags)

        return run

    def test_scores_and_report_lie_beside_it(self, score, data, tmp_path, written):
        results = some_results(open_data(data).ground_truth())
        result = score(results, '--report', f'--img_prefix={data / "val"}')
        assert result.status == 0, result.err
        numbers = json.loads((tmp_path / 'detections_scores.json').read_text())
        _, analysis = written
        assert numbers['AP'] == pytest.approx(analysis.scores.summary['AP'])
        assert tuple(numbers['per_class']) == CLASSES
        assert '<h2>Worst pictures' in (tmp_path / 'detections_report.html').read_text()

    def test_without_report_none_is_written(self, score, tmp_path):
        assert score([]).status == 0
        assert not (tmp_path / 'detections_report.html').exists()

    @pytest.mark.parametrize(
        ('content', 'parts'),
        [
            ('{', ['not a JSON file']),
            ({'images': []}, ['expected COCO results', "an object with 'images'"]),
            ([3], ['detection 0', 'image_id, category_id, bbox, score']),
            ([{'image_id': 1000}], ['detection 0']),
            ([{'image_id': '5'}], ['image_id 5, expected an integer']),
            ([{'bbox': [1, 2, 3]}], ['bbox [1, 2, 3], expected four finite']),
            ([{'bbox': [1, 2, -3, 4]}], ['width and height of at least 0']),
            ([{'score': float('nan')}], ['score nan, expected a number from 0']),
            ([{'score': 75}], ['score 75']),
            ([{'image_id': 4}], ['1 values of image_id', 'such as 4']),
            ([{'category_id': 99}], ['1 values of category_id', 'such as 99']),
        ],
    )
    def test_what_is_refused(self, score, content, parts):
        good = {'image_id': 1000, 'category_id': 7, 'bbox': [0, 0, 9, 9], 'score': 0.5}
        if isinstance(content, list) and content != [3] and len(content[0]) == 1:
            missing = content[0] == {'image_id': 1000}
            content = content if missing else [{**good, **content[0]}]
        score(content).refuses('eval.py: ', 'detections.json', *parts)

    @pytest.mark.parametrize(
        ('flags', 'part'),
        [
            (['--workdir=x'], 'one of --workdir, --config and --ann_file'),
            (['--config.seed=1'], '--ann_file has no config'),
        ],
    )
    def test_flags_that_contradict(self, score, flags, part):
        score([], *flags).refuses(part)

    @pytest.mark.parametrize(
        ('flags', 'part'),
        [
            (['--results=x', '--ann_file=x', '--report'], '--img_prefix'),
            (['--results=x', '--workdir=x', '--step=3'], '--step'),
            (['--workdir=x', '--ann_file=x'], '--ann_file goes with --results'),
            (['--workdir=x', '--min_score=0.1'], '--min_score goes with --report'),
            (['--workdir=x', '--report', '--min_score=2'], 'from 0 to 1'),
            ([], '--workdir, or --results'),
        ],
    )
    def test_flags_that_are_refused(self, call, flags, part):  # noqa: F811
        result = call('eval', *flags)
        assert result.status == 2 and part in result.err

    def test_a_workdir_says_the_data(self, call, small_run, tmp_path):  # noqa: F811
        path = tmp_path / 'x.json'
        path.write_text('[]')
        result = call('eval', f'--results={path}', f'--workdir={small_run.workdir}')
        assert result.status == 0 and '0 detections, 9 pictures' in result.out


def test_report_of_a_run(call, small_run, tmp_path):  # noqa: F811
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
    result = call('eval', f'--workdir={workdir}', '--report', '--min_score=0')
    assert result.status == 0, result.err
    (report,) = (workdir / 'evaluation').glob('val_*_report.html')
    assert f'report: {report}' in result.out
    (numbers,) = (workdir / 'evaluation').glob('val_*_scores.json')
    ap = json.loads(numbers.read_text())['AP']
    assert f'<dt>AP</dt><dd>{ap:.3f}</dd>' in report.read_text()


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

    def test_kinds_filter_pictures(self, page):
        self.focus(page, '[data-all=off]')
        page.press('Enter', '\r')
        assert page.run(SHOWN) == []
        assert page.run('document.getElementById("shown").value').startswith('0 of')
        self.focus(page, '#controls [value=localisation]')
        page.press(' ', ' ')
        kinds = {kind for side, kind, _ in page.run(SHOWN) if side == 'detections'}
        assert kinds == {'localisation'}
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

    def test_a_picture_is_enlarged(self, page):
        width = 'document.querySelector("figure .picture").offsetWidth'
        before = page.run(width)
        self.focus(page, '.enlarge')
        page.press('Enter', '\r')
        assert page.run(width) > 1.2 * before
        page.press('Enter', '\r')
        assert page.run(width) == before

    @pytest.mark.parametrize('scheme', ['light', 'dark'])
    def test_contrast(self, page, scheme):
        """Text against its ground: 4.5 at least, as WCAG AA asks."""
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
