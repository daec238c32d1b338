import contextlib
import copy
import io
import json
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.evaluation import coco_metric

CLASSES, CATEGORY_IDS = ('cat', 'dog'), (9, 4)


def annotated(*objects):
    """COCO dict of images 1 and 2, of (image id, category id, xywh[, crowd])."""
    return {
        'images': [{'id': i, 'height': 400, 'width': 400} for i in (1, 2)],
        'annotations': [
            {
                'id': index,
                'image_id': image_id,
                'category_id': category_id,
                'bbox': list(box),
                'area': box[2] * box[3],
                'iscrowd': int(bool(crowd)),
            }
            for index, (image_id, category_id, box, *crowd) in enumerate(objects)
        ],
        'categories': [{'id': 4, 'name': 'dog'}, {'id': 9, 'name': 'cat'}],
    }


def result(image_id, category_id, box, score=0.9):
    return {
        'image_id': image_id,
        'category_id': category_id,
        'bbox': list(box),
        'score': score,
    }


def evaluate(ground_truth, results, **kwargs):
    return coco_metric.evaluate(ground_truth, results, CLASSES, CATEGORY_IDS, **kwargs)


class TestResults:
    def test_boxes_become_xywh_and_labels_category_ids(self):
        boxes = np.array([[1, 2, 11, 22]], np.float32)
        results = coco_metric.coco_results(
            np.int32(5), boxes, np.array([0.5]), np.array([1]), CATEGORY_IDS
        )
        assert results == [
            {'image_id': 5, 'bbox': [1, 2, 10, 20], 'score': 0.5, 'category_id': 4}
        ]
        json.dumps(results)

    def test_none(self):
        none = np.zeros(0)
        assert coco_metric.coco_results(1, np.zeros((0, 4)), none, none, (1,)) == []

    def test_lengths_differ(self):
        with pytest.raises(ValueError, match='1 boxes, 2 scores and 1 labels'):
            coco_metric.coco_results(
                1, np.zeros((1, 4)), np.zeros(2), np.zeros(1), (1,)
            )


class TestEvaluate:
    small, large = (10, 10, 20, 20), (50, 50, 200, 200)

    def test_perfect(self):
        # The first annotation has id 0, which pycocotools alone would never match.
        scores = evaluate(
            annotated((1, 9, self.small), (2, 4, self.large)),
            [result(1, 9, self.small), result(2, 4, self.large)],
        )
        exact = {name: pytest.approx(1, abs=1e-12) for name in scores.summary}
        exact['APm'] = exact['ARm'] = pytest.approx(math.nan, nan_ok=True)
        assert scores.summary == exact
        assert scores.per_class == pytest.approx({'cat': 1, 'dog': 1})

    def test_iou_of_three_quarters(self):
        # 200x200 against 200x150 inside it: IoU 0.75, so right at 6 of 10 thresholds.
        scores = evaluate(
            annotated((1, 9, self.large)), [result(1, 9, (50, 50, 200, 150))]
        ).summary
        assert scores['AP'] == pytest.approx(0.6)
        assert scores['AP50'] == scores['AP75'] == pytest.approx(1)
        assert scores['AR100'] == scores['ARl'] == pytest.approx(0.6)

    def test_false_alarm_above_the_hit_halves_precision(self):
        scores = evaluate(
            annotated((1, 9, self.large)),
            [result(2, 9, self.large, 0.95), result(1, 9, self.large, 0.9)],
        )
        assert scores.summary['AP'] == pytest.approx(0.5)
        assert scores.summary['AR1'] == pytest.approx(1)

    def test_crowd_is_neither_hit_nor_missed(self):
        scores = evaluate(
            annotated((1, 9, self.small), (1, 9, self.large, True)),
            [result(1, 9, self.small, 0.5), result(1, 9, (60, 60, 50, 50), 0.9)],
        )
        assert scores.summary['AP'] == pytest.approx(1)

    def test_per_class_is_in_label_order(self):
        # Category ids 9, 4: pycocotools sorts them, which would swap the names.
        scores = evaluate(
            annotated((1, 9, self.large), (1, 4, self.small)),
            [result(1, 9, self.large)],
        )
        assert scores.per_class == pytest.approx({'cat': 1, 'dog': 0})
        assert list(scores.per_class) == ['cat', 'dog']

    def test_no_detections(self):
        scores = evaluate(annotated((1, 9, self.large)), [])
        assert scores.summary['AP'] == scores.summary['AR100'] == 0
        assert math.isnan(scores.summary['APs'])
        assert scores.per_class['cat'] == 0
        assert math.isnan(scores.per_class['dog'])

    def test_no_objects(self):
        scores = evaluate(annotated(), [result(1, 9, self.small)])
        assert all(map(math.isnan, scores.summary.values()))
        mmdet = scores.as_mmdet()
        assert mmdet['coco/bbox_mAP'] == mmdet['coco/bbox_mAP_s'] == -1
        assert math.isnan(mmdet['coco/cat_precision'])
        assert all(map(math.isnan, evaluate(annotated(), []).summary.values()))

    def test_only_some_images(self):
        ground_truth = annotated((1, 9, self.large), (2, 9, self.large))
        results = [result(1, 9, self.large), result(2, 9, self.small, 0.99)]
        scores = evaluate(ground_truth, results, image_ids=np.array([1]))
        assert scores.summary['AP'] == pytest.approx(1)
        assert evaluate(ground_truth, results).summary['AP'] < 0.5

    def test_only_some_classes(self):
        scores = coco_metric.evaluate(
            annotated((1, 9, self.large), (1, 4, self.small)),
            [result(1, 9, self.large)],
            ('cat',),
            (9,),
        )
        assert scores.summary['AP'] == pytest.approx(1)
        assert list(scores.per_class) == ['cat']

    def test_arguments_are_left_alone_and_nothing_is_printed(self, capsys):
        ground_truth = annotated((1, 9, self.large))
        results = [result(1, 9, self.large)]
        before = copy.deepcopy((ground_truth, results))
        evaluate(ground_truth, results)
        assert (ground_truth, results) == before
        assert capsys.readouterr().out == ''

    def test_unknown_images(self):
        with pytest.raises(ValueError, match=r'results: 1 image ids .* such as 8'):
            evaluate(annotated(), [result(8, 9, self.small)])
        with pytest.raises(ValueError, match=r'image_ids: 1 image ids .* such as 8'):
            evaluate(annotated(), [], image_ids=[1, 8])
        with pytest.raises(ValueError, match='no images to score'):
            evaluate(annotated(), [], image_ids=[])

    def test_more_than_a_hundred_detections(self):
        # 150 false alarms before the hit: COCO stops at 100, mmdet's AP50 does not.
        results = [result(1, 9, self.small, 0.9) for _ in range(150)]
        scores = evaluate(
            annotated((1, 9, self.large)), [*results, result(1, 9, self.large, 0.1)]
        )
        assert scores.summary['AP50'] == 0
        assert scores.as_mmdet()['coco/bbox_mAP'] == 0
        assert scores.as_mmdet()['coco/bbox_mAP_50'] == round(1 / 151, 3)


@pytest.fixture(scope='module')
def val(coco_tiny, golden):
    """CocoDataset and the golden detections as results."""
    source = CocoDataset(
        str(coco_tiny / 'annotations' / 'instances_val2017.json'),
        str(coco_tiny / 'val2017'),
        test_mode=True,
    )
    rows = golden('coco_eval')['detections']
    results = []
    for image_id in np.unique(rows[:, 0]):
        own = rows[rows[:, 0] == image_id]
        results += coco_metric.coco_results(
            image_id, own[:, 1:5], own[:, 5], own[:, 6], source.category_ids
        )
    return source, results


class TestGolden:
    def test_mmdet(self, val, golden):
        source, results = val
        scores = coco_metric.evaluate(
            source.ground_truth(), results, source.classes, source.category_ids
        )
        case = golden('coco_eval')
        assert len(case['names']) == 86
        want = dict(zip(case['names'], case['values'], strict=True))
        assert scores.as_mmdet() == want
        assert list(scores.as_mmdet()) == list(case['names'])

    def test_plain_pycocotools(self, val, coco_tiny):
        source, results = val
        scores = coco_metric.evaluate(
            source.ground_truth(), results, source.classes, source.category_ids
        )
        with contextlib.redirect_stdout(io.StringIO()):
            plain = COCO(str(coco_tiny / 'annotations' / 'instances_val2017.json'))
            evaluator = COCOeval(plain, plain.loadRes(results), 'bbox')
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        np.testing.assert_array_equal(list(scores.summary.values()), evaluator.stats)

    def test_order_of_classes_does_not_matter(self, val):
        source, results = val
        forward, backward = (
            coco_metric.evaluate(
                source.ground_truth(),
                results,
                source.classes[::step],
                source.category_ids[::step],
            )
            for step in (1, -1)
        )
        assert forward.as_mmdet() == backward.as_mmdet()


class TestTable:
    def test_small(self):
        ground_truth = annotated((1, 9, (50, 50, 200, 200)))
        table = coco_metric.format_table(evaluate(ground_truth, []))
        assert table.splitlines() == [
            '      AP    AP50    AP75     APs     APm     APl',
            '   0.000   0.000   0.000       -       -   0.000',
            '     AR1    AR10   AR100     ARs     ARm     ARl',
            '   0.000   0.000   0.000       -       -   0.000',
            '',
            'AP of each class',
            'cat  0.000 | dog      -',
        ]

    def test_eighty_classes(self, val):
        source, results = val
        scores = coco_metric.evaluate(
            source.ground_truth(), results, source.classes, source.category_ids
        )
        lines = coco_metric.format_table(scores).splitlines()
        assert max(map(len, lines)) <= 88
        cells = [line.split(' | ') for line in lines[6:]]
        down = [row[i] for i in range(len(cells[0])) for row in cells if i < len(row)]
        assert [cell.rsplit(None, 1)[0] for cell in down] == list(source.classes)
