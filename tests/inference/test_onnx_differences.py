"""What counts as the same detection, and what is said without the libraries."""

import importlib.util
import math

import numpy as np
import pytest

from atss_jax.inference.detector import Detector
from atss_jax.inference.onnx_file.differences import Differences, match
from atss_jax.inference.onnx_file.graph import Graph
from atss_jax.structures import Detections


def detections(*rows):
    """Detections of (x1, score, label); all boxes are 10 pixels wide."""
    boxes = np.array([[x, 0, x + 10, 10] for x, _, _ in rows], np.float32)
    scores = np.array([score for _, score, _ in rows], np.float32)
    labels = np.array([label for _, _, label in rows], np.int32)
    return Detections(boxes.reshape(-1, 4), scores, labels, np.ones(len(rows), bool))


def test_the_nearest_box_of_the_same_class():
    ours = detections((0, 0.9, 0), (0.5, 0.9, 0), (50, 0.5, 1), (70, 0.4, 2))
    theirs = detections((0.501, 0.9, 0), (0.001, 0.9, 0), (50, 0.5, 2), (70, 0.3, 2))
    assert match(ours, theirs) == [(0, 1), (1, 0)]
    differences = Differences()
    differences.add_detections(ours, theirs)
    assert (differences.matched, differences.unmatched) == (2, 4)
    assert differences.boxes == pytest.approx(1e-3, rel=1e-2)
    assert 'no counterpart' in differences.text()


def test_no_detections():
    differences = Differences()
    differences.add_detections(detections(), detections())
    differences.add_detections(detections((0, 0.9, 0)), detections())
    assert (differences.matched, differences.unmatched) == (0, 1)
    assert 'detections' not in differences.text(heads_only=True)
    assert '--images' in Differences().text()


@pytest.mark.parametrize('value', [math.nan, math.inf, 2e-4])
def test_what_is_beyond_the_tolerances(value):
    differences = Differences()
    differences.add_heads(np.zeros(3), np.array([0, 9e-5, 0]))
    assert differences.problem() is None
    differences.add_heads(np.zeros(3), np.array([0, value, 0]))
    differences.add_heads(np.zeros(3), np.zeros(3))
    assert 'heads' in differences.problem()
    assert 'counterpart' in Differences(unexplained=1).problem()


def test_names_are_paths_of_modules_and_constants_are_shared():
    graph = Graph({'params': {'neck': {'conv': {'kernel': np.ones(3)}}}})
    with graph.module('neck'), graph.module('conv'):
        kernel = graph.weight('kernel', graph.parameter('kernel'))
        names = [graph.op('Add', kernel, 1.0), graph.op('Add', kernel, 1.0)]
    assert names == ['neck/conv/Add', 'neck/conv/Add_2']
    assert list(graph.initializers) == ['neck/conv/kernel', 'constants/0']
    assert graph.unread_parameters() == []
    assert graph.constant(1.0) != graph.constant(1)
    assert graph.constant([1]) != graph.constant(1)


@pytest.mark.skipif(
    importlib.util.find_spec('onnxruntime') is not None, reason='it is installed'
)
def test_without_onnxruntime(tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_bytes(b'anything')
    with pytest.raises(ValueError, match=r"pip install 'atss-jax\[onnx\]'"):
        Detector.load(path)
