"""Scoring a results file, and reports: `eval.py --results`, `eval.py --report`."""

import json
import shutil

import pytest

from atss_jax.data.forms.dataset import open_all
from tests.support.every_form import WRITERS
from tests.support.report_data import open_data, some_results, written_report
from tests.support.small_run import CLASSES


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    """Path of a report, and its analysis."""
    return written_report(tmp_path_factory.mktemp('report'))


@pytest.fixture(scope='module')
def data(written):
    """Folder of the data."""
    return written[0].parent


class TestResultsFile:
    """`eval.py --results`."""

    @pytest.fixture
    def score(self, call, data, tmp_path):
        def run(content, *flags):
            path = tmp_path / 'detections.json'
            text = content if isinstance(content, str) else json.dumps(content)
            path.write_text(text)
            ann_file = f'--ann_file={data / "val.json"}'
            return call('eval', f'--results={path}', ann_file, *flags)

        return run

    def test_scores_and_report_are_written_next_to_it(
        self, score, data, tmp_path, written
    ):
        results = some_results(open_data(data).ground_truth())
        result = score(results, '--report', f'--img_prefix={data / "val"}')
        assert result.status == 0, result.err
        numbers = json.loads((tmp_path / 'detections_scores.json').read_text())
        _, analysis = written
        assert numbers['AP'] == pytest.approx(analysis.scores.summary['AP'])
        assert tuple(numbers['per_class']) == CLASSES
        assert '<h2>Worst images' in (tmp_path / 'detections_report.html').read_text()

    def test_without_report_none_is_written(self, score, tmp_path):
        assert score([]).status == 0
        assert not (tmp_path / 'detections_report.html').exists()

    @pytest.mark.parametrize('annotations', ['absent', None, []])
    def test_nothing_to_score(self, call, data, tmp_path, annotations):
        """Not even an error: image_info files of test sets have no annotations."""
        content = json.loads((data / 'val.json').read_text())
        content['annotations'] = annotations
        if annotations == 'absent':
            del content['annotations']
        file, path = tmp_path / 'info.json', tmp_path / 'detections.json'
        file.write_text(json.dumps(content))
        path.write_text('[]')
        flags = f'--ann_file={file}', f'--img_prefix={data / "val"}', '--report'
        result = call('eval', f'--results={path}', *flags)
        assert result.status == 0, result.err
        assert 'nothing to score' in result.out
        scores = json.loads((tmp_path / 'detections_scores.json').read_text())
        assert scores['AP'] is None

    @pytest.mark.parametrize(
        ('content', 'parts'),
        [
            ('{', ['not a JSON file']),
            ({'images': []}, ['expected COCO results', "an object with 'images'"]),
            ([3], ['detection 0', 'image_id, category_id, bbox, score']),
            ([{'image_id': 1000}], ['detection 0']),
            ([{'image_id': '5'}], ["image_id '5', expected an integer"]),
            ([{'bbox': [1, 2, 3]}], ['bbox [1, 2, 3], expected four finite']),
            ([{'bbox': [1, 2, -3, 4]}], ['width and height of at least 0']),
            ([{'score': float('nan')}], ['score nan, expected a number from 0']),
            ([{'score': 75}], ['score 75']),
            ([{'image_id': 4}], ['1 of the values of image_id', 'such as 4']),
            ([{'category_id': 99}], ['1 of the values of category_id', 'such as 99']),
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
            (['--workdir=x'], 'one of --workdir, --config, --data and --ann_file'),
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
            (['--results=x', '--workdir=x', '--tta'], '--tta'),
            (['--workdir=x', '--ann_file=x'], '--ann_file goes with --results'),
            (['--workdir=x', '--data=x'], '--data goes with --results'),
            (['--results=x', '--data=x', '--workdir=x'], '--workdir does not go with'),
            (['--results=x', '--data=x', '--ann_file=x'], '--ann_file does not go'),
            (['--results=x', '--config=x', '--split=minival'], 'expected one of train'),
            (['--workdir=x', '--min_score=0.1'], '--min_score goes with --report'),
            (['--workdir=x', '--report', '--min_score=2'], 'from 0 to 1'),
            ([], '--workdir, --model or --results is required'),
        ],
    )
    def test_flags_that_are_refused(self, call, flags, part):
        result = call('eval', *flags)
        assert result.status == 2 and part in result.err

    @pytest.mark.parametrize('encoding', ['utf-8-sig', 'utf-16'])
    def test_a_byte_order_mark_is_skipped(self, call, data, tmp_path, encoding):
        results = some_results(open_data(data).ground_truth())
        (tmp_path / 'x.json').write_text(json.dumps(results), encoding=encoding)
        flags = f'--results={tmp_path}/x.json', f'--ann_file={data}/val.json'
        result = call('eval', *flags)
        assert result.status == 0 and f'{len(results)} detections' in result.out

    def test_a_workdir_says_the_data(self, call, small_run, tmp_path):
        path = tmp_path / 'x.json'
        path.write_text('[]')
        result = call('eval', f'--results={path}', f'--workdir={small_run.workdir}')
        assert result.status == 0 and '0 detections, 9 images' in result.out
        other = '--config.data.test.indices=3'
        result = call(
            'eval', f'--results={path}', f'--workdir={small_run.workdir}', other
        )
        assert result.refuses('test.indices has no effect', 'choose --split=test')

    @pytest.mark.parametrize('form', [n for n in WRITERS if n != 'Parquet'])
    def test_data_of_any_form(self, call, small_data, tmp_path, form):
        """The results are perfect, and the scores and the report say so."""
        folder, path = tmp_path / 'my data', tmp_path / 'x.json'
        WRITERS[form](small_data, folder)
        ground_truth = open_all(str(folder), None, 'val').ground_truth()
        results = [a | {'score': 0.9} for a in ground_truth['annotations']]
        path.write_text(json.dumps(results))
        flags = f'--results={path}', f'--data={folder}', '--report'
        result = call('eval', *flags)
        assert result.status == 0, result.err
        assert f'{len(results)} detections, 9 images' in result.out
        numbers = json.loads((tmp_path / 'x_scores.json').read_text())
        assert numbers['AP'] == 1 and set(numbers['per_class']) == set(CLASSES)
        assert '<h2>Worst images' in (tmp_path / 'x_report.html').read_text()

    def test_splits_of_data(self, call, small_data, tmp_path):
        """Any of them; all of a data set without splits."""
        path = tmp_path / 'x.json'
        path.write_text('[]')
        WRITERS['YOLO'](small_data, tmp_path / 'y')
        flags = f'--results={path}', f'--data={tmp_path / "y"}'
        assert '21 images' in call('eval', *flags, '--split=train').out
        call('eval', *flags, '--split=test').refuses(
            "split = 'test'", 'only train, val'
        )
        call('eval', *flags, '--config.seed=1').refuses('--data has no config', 'seed')
        flags = f'--results={path}', f'--data={small_data / "val.json"}'
        assert '9 images' in call('eval', *flags).out


def test_report_of_a_run(call, small_run, tmp_path):
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
    result = call('eval', f'--workdir={workdir}', '--report', '--min_score=0')
    assert result.status == 0, result.err
    (report,) = (workdir / 'evaluation').glob('val_*_report.html')
    assert f'report: {report}' in result.out
    (numbers,) = (workdir / 'evaluation').glob('val_*_scores.json')
    ap = json.loads(numbers.read_text())['AP']
    assert f'<dt>AP</dt><dd>{ap:.3f}</dd>' in report.read_text()


def test_a_run_on_images_without_annotations(call, small_run, small_data, tmp_path):
    """Detections are written; neither annotations nor sizes are needed for them."""
    workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
    content = json.loads((small_data / 'val.json').read_text())
    del content['annotations']
    for image in content['images']:
        del image['width']
    file = tmp_path / 'info.json'
    file.write_text(json.dumps(content))
    flags = f'--config.data.test.ann_file={file}', '--split=test'
    with pytest.warns(UserWarning, match='9 of 9 images have no height and width'):
        result = call('eval', f'--workdir={workdir}', *flags)
    assert result.status == 0, result.err
    assert 'nothing to score' in result.out
    (path,) = (workdir / 'evaluation').glob('test_*_detections.json')
    assert len(json.loads(path.read_text())) > 9
