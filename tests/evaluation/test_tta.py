"""Test-time augmentation: views merged by hand, and on the small run."""

import numpy as np
import pytest

from atss_jax.config import build_experiment, load_config
from atss_jax.config.experiment import open_sources
from atss_jax.data.batch import Pipeline, Tta, variants
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.distributed import devices
from atss_jax.evaluation.merge import merge
from atss_jax.evaluation.run import make_evaluator
from atss_jax.structures import Detections
from atss_jax.training.checkpoint import Checkpoints
from atss_jax.training.workdir import config_path
from tests.conftest import ROOT
from tests.support.small_run import share_predictions

CONFIG = DetectConfig(iou_threshold=0.5, max_per_img=3)


def detections(*rows):
    """Detections from (x1, y1, x2, y2, score, label)."""
    rows = np.array(rows, np.float32).reshape(-1, 6)
    labels, valid = rows[:, 5].astype(np.int32), np.ones(len(rows), bool)
    return Detections(rows[:, :4], rows[:, 4], labels, valid)


def rows_of(detections):
    boxes, scores, labels, _ = detections
    columns = boxes, scores[:, None], labels[:, None]
    return np.concatenate(columns, axis=1).round(4).tolist()


def test_mirrored_boxes_come_back_and_the_better_one_stays():
    plain = detections((10, 0, 30, 20, 0.5, 0), (60, 60, 70, 70, 0.4, 1))
    # In an image 100 wide the first box, mirrored, is at 70..90.
    mirrored = detections((70, 0, 90, 20, 0.75, 0), (0, 40, 8, 48, 0.25, 1))
    assert rows_of(merge([plain, mirrored], [False, True], 100, CONFIG)) == [
        [10, 0, 30, 20, 0.75, 0],
        [60, 60, 70, 70, pytest.approx(0.4), 1],
        [92, 40, 100, 48, 0.25, 1],
    ]


def test_classes_do_not_suppress_each_other_and_the_best_are_kept():
    one = detections((0, 0, 9, 9, 0.5, 0), (0, 0, 9, 9, 0.4, 1), (20, 0, 29, 9, 0.1, 0))
    other = detections((0, 0, 9, 9, 0.3, 2), (0, 0, 9, 9, 0.2, 1))
    merged = merge([one, other], [False, False], 50, CONFIG)
    assert merged.labels.tolist() == [0, 1, 2]


def test_no_detections_in_any_view():
    assert rows_of(merge([detections(), detections()], [False, True], 50, CONFIG)) == []


def test_views_are_every_scale_each_mirrored():
    pipeline = Pipeline(img_scale=(64, 32), flip_ratio=0.5)
    (only,) = variants(pipeline, None)
    assert only == (pipeline.without_jitter(), False)
    views = variants(pipeline, Tta(((96, 64), (64, 32)), flip=True))
    assert [(v.pipeline.img_scale, v.flip) for v in views] == [
        ((64, 32), False),
        ((64, 32), True),
        ((96, 64), False),
        ((96, 64), True),
    ]
    assert views[2].pipeline.all_canvases() == ((64, 96), (96, 64))
    (own,) = variants(pipeline, Tta(None, flip=False))
    assert own.pipeline.img_scale == (64, 32)


def test_views_do_not_depend_on_the_order_of_scales():
    """Nor on a duplicate; with the authors' thirteen scales, also mirrored."""
    config = load_config(str(ROOT / 'configs' / 'atss_x101_64x4d_dcn_2x_ms.py'))
    experiment = build_experiment(config)
    pipeline, tta = experiment.data['test'].pipeline, experiment.tta
    expected = variants(pipeline, tta)
    assert len(expected) == 26 and len(tta.img_scales) == 13
    order = np.random.default_rng(0).permutation(13)
    permuted = tuple(tta.img_scales[i] for i in order)
    assert variants(pipeline, Tta(permuted, flip=True)) == expected
    assert variants(pipeline, Tta((*permuted, permuted[3]), flip=True)) == expected


# On a trained model ------------------------------------------------------------------


@pytest.fixture(scope='module')
def evaluate(small_run):
    """`evaluate(test_cfg.tta)` gives the detections on data.val, by image id."""
    workdir = str(small_run.workdir)

    def run(tta, use=True):
        config = load_config(config_path(workdir), {'test_cfg.tta': tta})
        experiment = build_experiment(config)
        variables = Checkpoints.open(workdir).restore_variables(experiment.model)
        source = open_sources(experiment, ('val',))['val']
        with pytest.MonkeyPatch.context() as patch:
            share_predictions(patch)
            evaluator = make_evaluator(experiment, source, 'val', use)
        return evaluator.detections(devices.replicate(variables))

    return run


def assert_same(one, other, tolerance=0.0):
    assert list(one) == list(other)
    for image_id in one:
        for ours, theirs in zip(one[image_id], other[image_id], strict=True):
            np.testing.assert_allclose(ours, theirs, rtol=0, atol=tolerance)


def test_one_scale_without_flip_equals_plain(evaluate):
    plain = evaluate(None, use=False)
    assert sum(len(one.labels) for one in plain.values()) > 50
    assert_same(evaluate({'img_scales': ((64, 32),), 'flip': False}), plain)


def test_scales_in_any_order_and_more_than_plain(evaluate):
    scales = ((64, 32), (48, 32))  # on the same canvases
    one = evaluate({'img_scales': scales, 'flip': False})
    assert_same(evaluate({'img_scales': scales[::-1], 'flip': False}), one)
    plain = evaluate(None, use=False)
    best = {id_: views.scores[0] for id_, views in one.items()}
    assert all(best[id_] >= plain[id_].scores[0] for id_ in plain)
    assert any(best[id_] > plain[id_].scores[0] for id_ in plain)
