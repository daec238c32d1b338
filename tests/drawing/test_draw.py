"""`draw data`, `draw batch`, `draw assignment`, `draw run`: what is in the images."""

import json
import shutil

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.config import build_experiment
from atss_jax.data.batch import load_row
from atss_jax.detection.assign import assign
from atss_jax.drawing import assignment, line_plot, runs, training_data
from atss_jax.drawing.boxes import class_color
from atss_jax.drawing.runs import read_curves
from atss_jax.report.errors import pairwise_iou
from tests.support.every_form import WRITERS
from tests.support.small_run import small_config

PLAIN = np.full((40, 60, 3), 255, np.uint8)


def a_row(size=(300, 310), canvas=(384, 416)):
    image = np.zeros((*canvas, 3), np.uint8)
    image[: size[0], : size[1]] = 200
    return {
        'image': image,
        'image_size': np.array(size),
        'gt_boxes': np.array([[50, 60, 150, 160], [200, 200, 290, 290], [0, 0, 0, 0]]),
        'gt_labels': np.array([1, 0, 0]),
        'gt_valid': np.array([True, True, False]),
        'gt_ignored': np.array([False, True, False]),
    }


class TestRow:
    def test_valid_region_and_the_rest_differ(self):
        drawn = training_data.draw_row(a_row(), ('cat', 'dog'), 32)
        assert (drawn[310:320, :320] == training_data._GRAY).all()
        assert (drawn[:320, 312:320] == training_data._GRAY).all()
        for rest in (drawn[320:], drawn[:, 320:]):
            assert set(np.unique(rest)) == {training_data._GRAY, training_data._STRIPE}
        assert (drawn[5:40, 200:] == 200).any() and (drawn[180:195, :40] == 200).all()

    def test_valid_region_follows_the_divisor(self):
        drawn = training_data.draw_row(a_row(), ('cat', 'dog'), 128)
        assert (drawn[310:384, :384] == training_data._GRAY).all()

    def test_a_crowd_has_a_color_of_its_own(self):
        drawn = training_data.draw_row(a_row(), ('cat', 'dog'), 32)
        frames = [(drawn == class_color(k)).all(2).sum() for k in range(3)]
        assert frames[0] == 0 and frames[1] > 300 and frames[2] > 300


@pytest.fixture(scope='module')
def config_file(small_data, tmp_path_factory):
    path = tmp_path_factory.mktemp('draw') / 'config.json'
    path.write_text(small_config(small_data).to_json())
    return path


@pytest.fixture
def draw(call, config_file, tmp_path):
    """Draws with the small config; the result, and the image if there is one."""

    def run(what, *flags, source=None):
        file = tmp_path / f'{what}.png'
        source = source or f'--config={config_file}'
        result = call('atss', 'draw', what, source, f'--out={file}', *flags)
        return result, cv2.imread(str(file)) if file.exists() else None

    return run


def test_data_of_each_split(draw):
    result, train = draw('data', '--count=5', '--columns=5')
    assert result.status == 0, result.err
    _, val = draw('data', '--count=5', '--columns=5', '--split=val')
    # 5 images in a row on the same canvases, but different images.
    assert train.shape[1] > 5 * 360 and val.shape[1] > 5 * 360
    assert train.shape != val.shape or (train != val).any()


AUGMENTED = {
    'before_resize': ({'type': 'Mosaic', 'img_scale': (48, 40)},),
    'after_flip': ({'type': 'PhotoMetricDistortion'},),
}


@pytest.mark.parametrize(('step', 'lists'), [(1, {}), (3, AUGMENTED)])
def test_the_batch_of_a_step(draw, small_data, step, lists):
    fields = {f'data.train.pipeline.{name}': x for name, x in lists.items()}
    flags = [f'--step={step}', *(f'--config.{k}={x!r}' for k, x in fields.items())]
    result, first = draw('batch', *flags)
    assert result.status == 0 and f'step {step}, 1 image\n' in result.out
    assert (draw('batch', *flags)[1] == first).all()
    experiment = build_experiment(small_config(small_data, fields))
    source = experiment.data['train'].open()
    batches = training_data.make_batches(experiment, source, 1, (0, 1))
    row = {name: x[0] for name, x in batches(step - 1).items()}
    expected = training_data.draw_row(row, source.classes, 32)
    gap = 8
    height, width = expected.shape[:2]
    shown = first[gap : gap + height, gap : gap + width, ::-1]
    np.testing.assert_array_equal(shown, expected)


def test_batch_of_a_workdir_has_its_size(draw, small_run):
    result, _ = draw('batch', '--step=2', source=f'--workdir={small_run.workdir}')
    assert result.status == 0 and 'step 2, 8 images' in result.out


@pytest.mark.parametrize(
    ('what', 'flags', 'status', 'part'),
    [
        ('batch', ['--step=0'], 2, 'expected 1 or more'),
        ('batch', [], 2, '--step'),
        ('data', ['--config.data.train.ann_file=nowhere.json'], 1, 'nowhere.json'),
        ('assignment', ['--image_ids', '1000', '5'], 1, 'image ids [5]'),
    ],
)
def test_bad_flags_are_refused(draw, what, flags, status, part):
    result, image = draw(what, *flags)
    assert result.status == status and part in result.err and image is None


@pytest.fixture(scope='module')
def explained(small_data):
    """A row of a batch, its explanation, and the settings of the loss."""
    experiment = build_experiment(small_config(small_data))
    data = experiment.data['train']
    source, pipeline = data.open(), data.pipeline.without_jitter()
    row = load_row(source, 0, (32, 64), pipeline)
    loss = experiment.loss
    return row, assignment.explain(row, loss.anchors, loss.assigner, 32), loss


def test_no_batch_beyond_the_run(small_run, tmp_path):
    with pytest.raises(
        ValueError, match='no --step 7: with batches of 8 training has 6'
    ):
        training_data.draw_batch(small_run.config, str(tmp_path / 'a.png'), 7, 8, None)


def test_shared_candidates_are_drawn_around_each_other():
    """Two circles, one for each box, and a circle around the disc of the other box."""
    no_boxes = np.zeros((2, 4))
    explanation = assignment.Explanation(
        boxes=no_boxes,
        labels=np.zeros(2, int),
        thresholds=np.zeros(2),
        centers=np.array([[[50.0, 50.0], [90.0, 50.0]]] * 2),
        levels=np.zeros((2, 2), int),
        is_candidate=np.ones((2, 2), bool),
        is_positive=np.array([[False, True], [False, False]]),
    )
    image = np.zeros((100, 150, 3), np.uint8)
    panel = assignment._draw_level(image, explanation, 0, 5.0)
    colors = [list(class_color(0)), list(class_color(1))]
    for middle in (50, 90):
        nearby = panel[35:66, middle - 15 : middle + 16].reshape(-1, 3).tolist()
        assert all(color in nearby for color in colors)
    assert panel[50, 90].tolist() == colors[0]
    assert panel[50, 50].tolist() == [100, 100, 100]


class TestAssignment:
    def test_positives_are_those_of_the_assignment(self, explained):
        row, explanation, loss = explained
        objects = row['gt_valid'] & ~row['gt_ignored']
        owner = assign(
            jnp.asarray(row['gt_boxes']),
            jnp.asarray(objects),
            jnp.asarray(row['image_size']),
            (32, 64),
            anchors=loss.anchors,
            assigner=loss.assigner,
        )
        expected = [(np.asarray(owner) == k).sum() for k in np.flatnonzero(objects)]
        assert explanation.is_positive.sum(1).tolist() == expected and sum(expected)
        assert not (explanation.is_positive & ~explanation.is_candidate).any()

    def test_thresholds_and_levels_by_hand(self, explained):
        _, explanation, loss = explained
        for k, box in enumerate(explanation.boxes):
            ok = explanation.is_candidate[k]
            strides = np.array(loss.anchors.strides)[explanation.levels[k][ok]]
            centers, half = explanation.centers[k][ok], strides[:, None] * 2 / 2
            assert (centers % strides[:, None] == 0).all()
            anchors = np.concatenate([centers - half, centers + half], 1)
            overlap = pairwise_iou(anchors, box[None], np.array([False]))
            expected = overlap.mean() + overlap.std(ddof=1)
            assert explanation.thresholds[k] == pytest.approx(expected, abs=1e-5)

    def test_the_sheet(self, draw):
        result, sheet = draw('assignment', '--image_ids', '1000', '993')
        assert result.status == 0, result.err
        # Two levels: boxes and a level side by side, a level and bars below.
        assert sheet.shape[1] == 2 * 640 + 3 * 8

    def test_each_image_begins_a_row(self, draw):
        flags = (
            '--config.model.neck.num_outs=3',
            '--config.model.bbox_head.anchor_generator.strides=(8, 16, 32)',
        )
        _, one = draw('assignment', '--image_ids', '1000', *flags)
        _, two = draw('assignment', '--image_ids', '1000', '993', *flags)
        assert one.shape[1] == two.shape[1] == 3 * 640 + 4 * 8
        assert two.shape[0] == 2 * one.shape[0] - 8
        # The sixth cell is empty: five panels an image.
        assert (two[: one.shape[0] // 2 + 100, :640] != 255).any()
        assert (two[one.shape[0] // 2 + 20 : one.shape[0] - 8, -640:] == 255).all()


class TestCurves:
    def test_they_are_those_of_the_log(self, small_run):
        curves = read_curves(str(small_run.workdir))
        lines = (small_run.workdir / 'metrics.jsonl').read_text().splitlines()
        records = [json.loads(line) for line in lines]
        for name, kind in (('loss', 'train'), ('lr', 'train'), ('AP', 'eval')):
            own = [r for r in records if r['kind'] == kind]
            steps, values = curves[name]
            assert steps.tolist() == [r['step'] for r in own]
            assert values.tolist() == [r[name] for r in own]
        assert curves['images/s'][0].tolist() == curves['loss'][0].tolist()
        assert (curves['images/s'][1] > 0).all()

    def test_a_last_record_cut_off_is_left_out(self, small_run, tmp_path):
        workdir = shutil.copytree(small_run.workdir, tmp_path / 'run')
        (events,) = (workdir / 'tensorboard').glob('*tfevents*')
        content = events.read_bytes()
        events.write_bytes(content[: len(content) // 2])
        steps, _ = read_curves(str(workdir))['images/s']
        whole, _ = read_curves(str(small_run.workdir))['images/s']
        assert 0 < len(steps) < len(whole)
        assert steps.tolist() == whole[: len(steps)].tolist()

    def test_runs_are_drawn_together(self, call, small_run, tmp_path):
        file = tmp_path / 'run.png'
        other = shutil.copytree(small_run.workdir, tmp_path / 'other')
        result = call(
            'atss',
            'draw',
            'run',
            '--workdir',
            small_run.workdir,
            other,
            f'--out={file}',
        )
        assert result.status == 0, result.err
        image = cv2.imread(str(file))[..., ::-1]
        for number in (0, 1):
            assert (image == line_plot.curve_color(number)).all(2).any()

    def test_titles_name_runs_that_have_not_logged(
        self, small_run, monkeypatch, tmp_path
    ):
        titles = []
        monkeypatch.setattr(
            runs,
            'line_plot',
            lambda curves, title, end: titles.append(title) or PLAIN,
        )
        other = shutil.copytree(small_run.workdir, tmp_path / 'other')
        shutil.rmtree(other / 'tensorboard')
        runs.draw_run([str(small_run.workdir), str(other)], str(tmp_path / 'a.png'))
        loss, _, _, speed = titles
        assert 'none logged' not in loss and speed.endswith(f'none logged by {other}')

    def test_a_folder_without_log(self, call, tmp_path):
        flags = 'draw', 'run', f'--workdir={tmp_path}', '--out=a.png'
        call('atss', *flags).refuses(tmp_path, 'no log of a run')


class TestDataOfAnyForm:
    """`draw data --data`."""

    @pytest.mark.parametrize('form', [n for n in WRITERS if n != 'Parquet'])
    def test_images_and_boxes_without_a_config(self, call, small_data, tmp_path, form):
        """Boxes of all classes are drawn."""
        WRITERS[form](small_data, tmp_path / 'd')
        sheet = tmp_path / 'sheet.png'
        flags = f'--data={tmp_path / "d"}', f'--out={sheet}', '--count=5', '--columns=5'
        result = call('atss', 'draw', 'data', *flags, '--split=val')
        assert result.status == 0, result.err
        assert result.out.startswith(f'{tmp_path / "d"}: ')
        drawn = cv2.imread(str(sheet))[..., ::-1]
        for label in range(3):
            assert (drawn == class_color(label)).all(2).sum() > 100

    def test_splits_and_fields(self, call, small_data, tmp_path):
        WRITERS['YOLO'](small_data, tmp_path / 'd')
        words = 'atss', 'draw', 'data', f'--out={tmp_path / "s.png"}'
        small = '--config.data.val.pipeline.img_scale=(64, 32)', '--count=1'
        sizes = []
        for flags in ((), small):
            assert call(*words, f'--data={tmp_path / "d"}', *flags).status == 0
            sizes.append(cv2.imread(str(tmp_path / 's.png')).shape)
        assert sizes[0][0] > sizes[1][0]
        result = call(*words, f'--data={tmp_path / "d"}', '--split=minival')
        result.refuses("split = 'minival'", 'has only train, val')
        file = f'--data={small_data / "val.json"}'
        assert call(*words, file).status == 0  # all of it

    def test_with_a_config(self, call, small_data, config_file, tmp_path):
        """What its loader gives, on the data of the folder."""
        WRITERS['YOLO'](small_data, tmp_path / 'd')
        words = 'atss', 'draw', 'data', f'--out={tmp_path / "s.png"}', '--count=3'
        flags = f'--data={tmp_path / "d"}', f'--config={config_file}'
        result = call(*words, *flags)
        assert result.status == 0, result.err
        call(*words, *flags, '--split=all').refuses('expected one of train, val, test')

    def test_neither_data_nor_config(self, call, tmp_path):
        result = call('atss', 'draw', 'data', f'--out={tmp_path / "s.png"}')
        result.refuses('draw data needs --config, --workdir or --data')
