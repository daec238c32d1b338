"""Detection in tiles, with a detector that finds squares, and with a trained one."""

import cv2
import jax.numpy as jnp
import numpy as np
import pytest

from atss_jax.config import build_experiment
from atss_jax.config.experiment import open_sources
from atss_jax.data.batch import Pipeline, Variant
from atss_jax.data.tiles import Tiling
from atss_jax.detection.postprocess import DetectConfig
from atss_jax.distributed import devices
from atss_jax.evaluation.run import make_evaluator
from atss_jax.evaluation.run_in_tiles import detections_with_tiles
from atss_jax.inference.detector import Detector
from atss_jax.inference.engine import Inference
from atss_jax.structures import Detections

_SIDE = 12  # pixels of the squares


def _find_squares(batch):
    """A box around each group of bright pixels, as a step of `Inference`.

    What is smaller than 8 pixels on the canvas is not seen.
    """
    rows = []
    for image, scale in zip(batch['image'], batch['scale'], strict=True):
        bright = (image[..., 0] > 100).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(bright)
        boxes = [
            [x, y, x + width, y + height]
            for x, y, width, height, _ in stats[1:].tolist()
            if min(width, height) >= 8
        ]
        padded = np.zeros((8, 4), np.float32)
        padded[: len(boxes)] = np.reshape(boxes, (-1, 4)) / np.tile(scale, 2)
        rows.append((padded, np.arange(8) < len(boxes)))
    boxes, valid = map(np.stack, zip(*rows, strict=True))
    scores = np.where(valid, 0.9, 0).astype(np.float32)
    labels = np.zeros(valid.shape, np.int32)
    return Detections(*map(jnp.asarray, (boxes, scores, labels, valid)))


def _inference(flips=(False,), batch_size=2):
    pipeline = Pipeline((64, 64), canvases=((64, 64),))
    config = DetectConfig(max_per_img=8)
    variants = [Variant(pipeline, flip) for flip in flips]
    return Inference(_find_squares, variants, config, batch_size)


def _image(corners, size=(200, 320), side=_SIDE):
    image = np.zeros((*size, 3), np.uint8)
    for x, y in corners:
        image[y : y + side, x : x + side] = 255
    return image


# In the first tile, across seams, in overlaps of two and four tiles, at the far corner.
_CORNERS = [(3, 5), (46, 20), (60, 80), (50, 46), (200, 100), (308, 188), (150, 0)]


@pytest.mark.parametrize('flips', [(False,), (False, True)])
def test_each_square_counts_once(flips):
    image = _image(_CORNERS)
    inference = _inference(flips)
    views = [inference.prepare('key', image, Tiling(64, 0.25))]
    ((key, detections),) = inference.run(views)
    assert key == 'key'
    assert sorted(detections.boxes[:, :2].round().astype(int).tolist()) == sorted(
        [list(corner) for corner in _CORNERS]
    )


def test_small_squares_are_found_in_tiles_alone():
    """The whole image is shown at a fifth of its size."""
    inference = _inference()
    ((_, whole),) = inference.run([inference.prepare(0, _image(_CORNERS))])
    assert len(whole.scores) == 0


def test_large_square_is_found_in_the_whole_image():
    image = _image([(40, 40)], side=120)
    inference = _inference()
    ((_, found),) = inference.run([inference.prepare(0, image, Tiling(64, 0.25))])
    np.testing.assert_allclose(found.boxes, [[40, 40, 160, 160]], atol=5)


def test_batches_go_across_images():
    """Five images in tiles: all rows of all batches but the last are used."""
    rows = []

    def step(batch):
        rows.append(len(batch['image']))
        return _find_squares(batch)

    inference = _inference(batch_size=8)
    inference._step = step
    tiling = Tiling(64, 0.25)
    images = [_image(_CORNERS[:n]) for n in range(1, 6)]
    results = dict(
        inference.run(inference.prepare(n, x, tiling) for n, x in enumerate(images))
    )
    assert [len(results[n].scores) for n in range(5)] == [1, 2, 3, 4, 5]
    views = 5 * (1 + len(tiling.windows((200, 320))))
    assert len(rows) == -(-views // 8)


def test_memory_does_not_grow_with_the_number_of_tiles():
    """A tile is resized when its batch is filled, not before."""
    inference = _inference(batch_size=4)
    views = inference.prepare(0, _image([]), Tiling(20, 0.0))
    taken = []

    def counted(rows):
        for row in rows:
            taken.append(row)
            yield row

    views.rows = counted(views.rows)
    at_step = []

    def step(batch):
        at_step.append(len(taken))
        return _find_squares(batch)

    inference._step = step
    list(inference.run([views]))
    assert len(at_step) == -(-(1 + 160) // 4)
    assert at_step[:3] == [4, 8, 12]


def test_one_tile_that_holds_the_image_is_plain_prediction(small_run, small_data):
    paths = sorted((small_data / 'val').iterdir())[:3]
    detector = Detector.load(small_run.workdir)
    plain = detector.predict(paths)
    tiled = detector.predict(paths, tiles=10_000)
    for one, other in zip(plain, tiled, strict=True):
        assert len(one) > 0
        for name in ('boxes', 'scores', 'labels'):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_evaluation_in_tiles_equals_prediction_in_tiles(small_run, small_data):
    paths = sorted((small_data / 'val').iterdir())
    tiles = {'tiles': 40, 'overlap': 0.3}
    predicted = Detector.load(small_run.workdir, batch_size=2).predict(paths, **tiles)
    experiment = build_experiment(small_run.config)
    source = open_sources(experiment, ('test',))['test']
    evaluator = make_evaluator(experiment, source, 'test')
    variables = devices.replicate(small_run.state.variables)
    evaluated = detections_with_tiles(evaluator, Tiling(40, 0.3), variables)
    assert sum(map(len, predicted)) > 100
    for path, one in zip(paths, predicted, strict=True):
        other = evaluated[int(path.stem)]
        assert one.labels.tolist() == other.labels.tolist()
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
        np.testing.assert_allclose(one.boxes, other.boxes, atol=1e-3)
