"""The report says what was computed, and needs no other files."""

import html.parser
import json
import re

import numpy as np
import pytest

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.report.page import write_report
from tests.support.report_data import open_data, some_results, written_report


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Path, analysis."""
    return written_report(tmp_path_factory.mktemp('report'))


@pytest.fixture(scope='module')
def data(written):
    """Folder of the data."""
    return written[0].parent


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
    assert analysis.errors.counts['localization'] > 0
    assert f'{analysis.errors.ap50:.3f}' == f'{analysis.scores.summary["AP50"]:.3f}'


def test_boxes_lie_where_they_are_on_the_image(written):
    path, analysis = written
    boxes = [a for a in elements(path, 'div') if 'data-side' in a]
    assert len(boxes) == sum(
        len(analysis.images[id_][0].gt_boxes) + len(analysis.images[id_][0].scores)
        for id_ in analysis.worst
    )
    image, _ = analysis.images[analysis.worst[0]]
    x1, y1, x2, y2 = image.gt_boxes[0]
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


def test_a_damaged_image_is_named_and_the_rest_shown(data, tmp_path):
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


def test_no_errors_and_no_detections(data, tmp_path):
    source, path = open_data(data), tmp_path / 'report.html'
    ground_truth = source.ground_truth()
    right = [
        {**{k: a[k] for k in ('image_id', 'category_id', 'bbox')}, 'score': 0.9}
        for a in ground_truth['annotations']
    ]
    analysis = write_report(path, source, right, 'all right', 0.3)
    assert analysis.errors.ap50 == 1 and not any(analysis.errors.gains.values())
    assert 'No image has an error' in path.read_text()
    analysis = write_report(path, source, [], 'nothing', 0.3)
    assert analysis.errors.gains['missed'] == 1
    assert {
        state['data-kind'] for state in elements(path, 'div') if 'data-kind' in state
    } <= {'missed', 'crowd'}
