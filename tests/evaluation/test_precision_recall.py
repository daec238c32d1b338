"""hotcoco and pycocotools on the same sets: equal in every bit, whatever is scored."""

import contextlib
import io
import sys

import hotcoco
import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.evaluation import coco_metric, precision_recall
from atss_jax.report.analysis import analyze
from atss_jax.structures import Detections
from tests.report.test_errors import random_ground_truth_and_results

ARRAYS = ('precision', 'recall', 'scores')


def plain(ground_truth, results, category_ids, image_ids=None):
    """pycocotools alone, on the ids of the files; classes in order of `category_ids`.

    Only the ids of annotations are new: pycocotools loses a match with the id 0.
    """

    def index(annotations):
        numbered = [{**a, 'id': n} for n, a in enumerate(annotations, start=1)]
        coco = COCO()
        coco.dataset = ground_truth | {'annotations': numbered}
        coco.createIndex()
        return coco

    with contextlib.redirect_stdout(io.StringIO()):
        evaluator = COCOeval(
            index(ground_truth['annotations']),
            index(
                [
                    {**r, 'area': r['bbox'][2] * r['bbox'][3], 'iscrowd': 0}
                    for r in results
                ]
            ),
            'bbox',
        )
        if image_ids is not None:
            evaluator.params.imgIds = sorted(image_ids)
        evaluator.params.catIds = sorted(category_ids)
        evaluator.params.maxDets = list(precision_recall.MAX_DETS)
        evaluator.evaluate()
        evaluator.accumulate()
    columns = np.argsort(np.argsort(category_ids))
    return {
        'precision': evaluator.eval['precision'][:, :, columns],
        'scores': evaluator.eval['scores'][:, :, columns],
        'recall': evaluator.eval['recall'][:, columns],
    }


def check(ground_truth, results, category_ids, image_ids=None, with_fallback=True):
    """`by_hotcoco` and `by_pycocotools` give the bits of pycocotools alone.

    Returns the arrays of the latter.
    """
    want = plain(ground_truth, results, category_ids, image_ids)
    scored = coco_metric.to_scored(ground_truth, results, category_ids, image_ids)
    by_hotcoco = precision_recall.by_hotcoco(scored, hotcoco)
    others = [by_hotcoco]
    if with_fallback:
        others.append(precision_recall.by_pycocotools(scored))
    for name in ARRAYS:
        for arrays in others:
            assert arrays[name].dtype == want[name].dtype == np.float64
            assert arrays[name].shape == want[name].shape
            assert arrays[name].tobytes() == want[name].tobytes(), name
    return want


def coco(image_ids, category_ids, objects):
    """COCO dict of (image id, category id, xywh[, crowd[, area]])."""
    annotations = []
    for image_id, category_id, box, *others in objects:
        crowd, area = (*others, *(False, box[2] * box[3])[len(others) :])
        annotations.append(
            {
                'id': len(annotations),
                'image_id': image_id,
                'category_id': category_id,
                'bbox': list(box),
                'area': area,
                'iscrowd': int(crowd),
            }
        )
    return {
        'images': [{'id': i, 'height': 500, 'width': 500} for i in image_ids],
        'categories': [{'id': i, 'name': f'class {i}'} for i in category_ids],
        'annotations': annotations,
    }


def result(image_id, category_id, box, score):
    return {
        'image_id': image_id,
        'category_id': category_id,
        'bbox': list(box),
        'score': score,
    }


BOX, NEAR, FAR = (10.0, 10.0, 40.0, 40.0), (14.0, 10.0, 40.0, 40.0), (200.0, 0, 9, 9)


class TestCases:
    def test_crowds(self):
        ground_truth = coco([1], [3], [(1, 3, (0, 0, 300, 300), True), (1, 3, BOX)])
        results = [result(1, 3, b, s) for b, s in ((NEAR, 0.9), (FAR, 0.8), (BOX, 0.7))]
        check(ground_truth, results, (3,))

    def test_areas_at_their_borders(self):
        areas = (0, 1023.9999, 1024, 1024.0001, 9216, 9216.0001, 1e10, 2e10, -1)
        objects = [(1, 3, (i * 50, 0, 32, 32), False, a) for i, a in enumerate(areas)]
        results = [
            result(1, 3, (i * 50, 0, side, 32), 0.9 - i / 20)
            for i, side in enumerate((32, 31.99, 32.01, 33, 30, 32, 28, 32, 288))
        ]
        check(coco([1], [3], objects), results, (3,))

    def test_equal_scores_go_by_image_id_and_then_by_order(self):
        """The image of the lower id counts first, wherever the file lists it."""
        ground_truth = coco([9, 2], [3], [(9, 3, BOX), (2, 3, BOX)])
        results = [
            result(9, 3, FAR, 0.5),
            result(9, 3, BOX, 0.5),
            result(2, 3, BOX, 0.5),
            result(2, 3, FAR, 0.5),
        ]
        want = check(ground_truth, results, (3,))
        # Right, wrong, wrong, right: 1 up to a recall of 1/2, then 1/2.
        assert want['precision'][0, [50, 51], 0, 0, 2] == pytest.approx([1, 0.5])
        check(ground_truth, results[::-1], (3,))

    @pytest.mark.parametrize('ids', [(2**62, 7), (2**53 + 1, 2**53), (0, -5), (1, 900)])
    def test_any_ids(self, ids):
        """hotcoco itself refuses negative ids, and rounds those of detections."""
        objects = [(i, c, BOX) for i in ids for c in ids]
        results = [result(i, c, NEAR, 0.5) for i in ids for c in ids]
        want = check(coco(ids, ids, objects), results, ids)
        assert (want['recall'][0, :, 0, 2] == 1).all()

    def test_nothing(self):
        check(coco([1, 2], [3, 4], []), [], (3, 4))
        check(coco([1, 2], [3, 4], [(1, 3, BOX)]), [], (3, 4))
        check(coco([1, 2], [3, 4], []), [result(1, 3, BOX, 0.5)], (3, 4))

    def test_what_is_not_scored(self):
        """Other images and other classes, in the ground truth and in the results."""
        objects = [(i, c, BOX) for i in (1, 2) for c in (3, 4)]
        results = [result(i, c, BOX, 0.5) for i in (1, 2) for c in (3, 4, 99)]
        check(coco([1, 2], [3, 4], objects), results, (4,), [2])
        assert check(coco([1, 2], [3, 4], objects), results, (4, 3))

    def test_boxes_without_or_with_negative_sides(self):
        boxes = (BOX, (10, 10, 0, 40), (10, 10, -5, 40), (10, 10, -40, -40), (1e9,) * 4)
        objects = [(1, 3, box) for box in boxes]
        results = [result(1, 3, box, 0.5 + i / 9) for i, box in enumerate(boxes)]
        check(coco([1], [3], objects), results, (3,))

    def test_thousands_in_an_image(self):
        random = np.random.default_rng(0)
        boxes = random.uniform(0, 200, (1500, 4)).tolist()
        scores = random.random(1500).round(2).tolist()
        objects = [(1, 3, box) for box in boxes[::50]]
        results = [result(1, 3, *row) for row in zip(boxes, scores, strict=True)]
        check(coco([1], [3], objects), results, (3,), with_fallback=False)


NUMBERS = st.one_of(st.integers(0, 6).map(lambda n: n * 16.0), st.floats(-8, 120))
OBJECTS = st.tuples(
    st.sampled_from((1, 5, 6)),
    st.sampled_from((2, 3, 40)),
    st.tuples(*[NUMBERS] * 4),
    st.booleans(),
    st.sampled_from((-1.0, 0.0, 500.0, 1024.0, 9216.0, 1e10, 1e11)),
)
RESULTS = st.builds(
    result,
    st.sampled_from((1, 5, 6)),
    st.sampled_from((2, 3, 40, 7)),
    st.tuples(*[NUMBERS] * 4),
    st.one_of(st.sampled_from((0.0, -0.0, 0.5, 0.9)), st.floats(-2, 2)),
)


@hypothesis.settings(max_examples=25, deadline=None)
@hypothesis.given(
    st.lists(OBJECTS, max_size=12),
    st.lists(RESULTS, max_size=30),
    st.permutations((2, 3, 40)),
    st.lists(st.sampled_from((1, 5, 6)), min_size=1, unique=True),
)
def test_any_set(objects, results, category_ids, image_ids):
    category_ids = tuple(category_ids)
    ground_truth = coco([6, 1, 5], [40, 2, 3], objects)
    # Some results at the places of objects, so that there are matches.
    results += [result(*o[:3], 0.5) for o in objects[::2]]
    check(ground_truth, results, category_ids, image_ids)


@pytest.mark.slow
@pytest.mark.parametrize('split', ['train2017', 'val2017'])
def test_coco(split, coco_tiny):
    """All images and 80 classes, with three moved copies of most objects."""
    file = coco_tiny / 'annotations' / f'instances_{split}.json'
    source = CocoDataset(str(file), str(coco_tiny / split), test_mode=True)
    ground_truth, random = source.ground_truth(), np.random.default_rng(1)
    results = [
        result(
            a['image_id'],
            a['category_id'],
            (np.array(a['bbox']) + random.normal(0, spread, 4)).tolist(),
            round(random.random(), 2),
        )
        for a in ground_truth['annotations']
        for spread in (1, 4, 30)
        if random.random() < 0.9
    ]
    check(ground_truth, results, source.category_ids)


def test_golden_detections(coco_tiny, golden):
    file = coco_tiny / 'annotations' / 'instances_val2017.json'
    source = CocoDataset(str(file), str(coco_tiny / 'val2017'), test_mode=True)
    rows, ground_truth = golden('coco_eval')['detections'], source.ground_truth()
    detections = {
        int(i): Detections(
            rows[rows[:, 0] == i, 1:5],
            rows[rows[:, 0] == i, 5],
            rows[rows[:, 0] == i, 6].astype(int),
            np.ones((rows[:, 0] == i).sum(), bool),
        )
        for i in np.unique(rows[:, 0])
    }
    results = [
        record
        for image_id, (boxes, scores, labels, _) in detections.items()
        for record in coco_metric.coco_results(
            image_id, boxes, scores, labels, source.category_ids
        )
    ]
    check(ground_truth, results, source.category_ids, with_fallback=False)
    arguments = source.classes, source.category_ids, source.records.image_ids
    by_results = coco_metric.evaluate(ground_truth, results, *arguments)
    assert coco_metric.evaluate(ground_truth, detections, *arguments) == by_results


class TestDetections:
    def test_the_same_as_their_results(self):
        random = np.random.default_rng(3)
        ground_truth = coco([1, 2], [3, 4], [(1, 3, BOX), (2, 4, BOX)])
        detections = {
            image_id: Detections(
                random.uniform(0, 60, (n, 4)).astype(np.float32),
                random.random(n).astype(np.float32),
                random.integers(0, 2, n).astype(np.int32),
                np.ones(n, bool),
            )
            for image_id, n in ((2, 50), (1, 0))
        }
        results = coco_metric.coco_results(2, *detections[2][:3], (4, 3))
        pairs = [
            coco_metric.to_scored(ground_truth, r, (4, 3), chosen)
            for chosen in ([1, 2], [1], [2])
            for r in (detections, results)
        ]
        for first, second in zip(pairs[::2], pairs[1::2], strict=True):
            for ours, other in zip(first.detections, second.detections, strict=True):
                assert ours.dtype == other.dtype
                np.testing.assert_array_equal(ours, other)

    def test_wrong_ones(self):
        ground_truth = coco([1], [3], [])
        box, ok = np.zeros((1, 4)), np.ones(1, bool)
        wrong = {1: Detections(box, np.zeros(2), np.zeros(1, int), ok)}
        with pytest.raises(ValueError, match='image id 1: 1 boxes, 2 scores'):
            coco_metric.to_scored(ground_truth, wrong, (3,))
        wrong = {8: Detections(box, np.zeros(1), np.zeros(1, int), ok)}
        with pytest.raises(ValueError, match=r'results: 1 image ids .* such as 8'):
            coco_metric.to_scored(ground_truth, wrong, (3,))


@pytest.mark.parametrize(
    ('box', 'score', 'shown'),
    [
        (BOX, np.nan, 'score nan'),
        (BOX, np.inf, 'score inf'),
        ((0, 0, np.nan, 1), 0.5, r'\[0.0, 0.0, nan, 1.0\]'),
        ((0, -np.inf, 1, 1), 0.5, r'\[0.0, -inf, 1.0, 1.0\]'),
    ],
)
def test_numbers_that_are_not_finite(box, score, shown):
    """To pycocotools, a box of nan overlaps every object by any threshold."""
    results = [result(7, 3, BOX, 0.5), result(7, 3, box, score)]
    message = f'1 detections have a box or a score that is not finite.*id 7.*{shown}'
    with pytest.raises(ValueError, match=message):
        coco_metric.evaluate(coco([7], [3], [(7, 3, BOX)]), results, ('a',), (3,))


def test_without_hotcoco_pycocotools_scores_and_a_warning_says_so_once(monkeypatch):
    ground_truth, results = random_ground_truth_and_results(0)
    arguments = ground_truth, results, ('a', 'b', 'c'), (5, 6, 7)
    want = coco_metric.evaluate(*arguments)
    monkeypatch.setitem(sys.modules, 'hotcoco', None)  # an import of it fails
    precision_recall.find_hotcoco.cache_clear()
    try:
        with pytest.warns(UserWarning) as warned:
            without = [coco_metric.evaluate(*arguments) for _ in range(2)]
    finally:
        precision_recall.find_hotcoco.cache_clear()
    assert without == [want, want]
    (warning,) = warned
    assert 'hotcoco cannot be imported' in str(warning.message)
    assert 'pycocotools scores instead. The numbers are the same' in str(
        warning.message
    )


@pytest.mark.parametrize('seed', range(4))
def test_report(seed):
    """AP50 and its errors, and the numbers of each class, by the report's own code."""
    ground_truth, results = random_ground_truth_and_results(seed)
    want = plain(ground_truth, results, (7, 5, 6))
    analysis = analyze(
        ground_truth, results, ('a', 'b', 'c'), (7, 5, 6), range(12), 0.3
    )
    for label, numbers in enumerate(analysis.class_numbers):
        precision = want['precision'][:, :, label, 0, 2]
        assert numbers['AP'] == precision.mean()
        assert numbers['AP50'] == precision[0].mean()
        assert numbers['AR100'] == want['recall'][:, label, 0, 2].mean()
    assert analysis.errors.ap50 == pytest.approx(
        want['precision'][0, :, :, 0, 2].mean(), abs=1e-12
    )


KINDS = {
    'Cls': 'classification',
    'Loc': 'localization',
    'Both': 'both',
    'Dupe': 'duplicate',
    'Bkg': 'background',
    'Miss': 'missed',
    'FP': 'false positives',
    'FN': 'false negatives',
}


@pytest.mark.parametrize('seed', range(6))
def test_errors_of_the_report(seed):
    """The kinds of errors, counted by hotcoco, which takes crowds for objects."""
    ground_truth, results = random_ground_truth_and_results(seed)
    for annotation in ground_truth['annotations']:
        annotation['iscrowd'] = 0
    objects = hotcoco.COCO(ground_truth)
    evaluator = hotcoco.COCOeval(objects, objects.load_res(results), 'bbox')
    evaluator.evaluate()
    evaluator.accumulate()
    want = evaluator.tide_errors()
    errors = analyze(
        ground_truth, results, ('a', 'b', 'c'), (5, 6, 7), range(12), 0.3
    ).errors
    for kind, count in want['counts'].items():
        assert errors.counts[KINDS[kind]] == count
    for kind, gain in want['delta_ap'].items():
        ours = errors.gains[KINDS[kind]]
        # Of several errors about one object, ours counts the best of the fixed kind.
        is_same = ours == pytest.approx(gain, abs=1e-9)
        assert is_same or (kind in ('Cls', 'Loc') and ours > gain)
