"""The prediction pipeline: order, padding, and how far it runs ahead."""

import jax.numpy as jnp
import numpy as np

from atss_jax.evaluation.run import predict
from atss_jax.structures import PREDICT_FIELDS, Detections


class Step:
    """Detects an image's first pixel: one valid row of two."""

    def __init__(self):
        self.calls = 0

    def __call__(self, batch):
        assert tuple(batch) == PREDICT_FIELDS
        self.calls += 1
        scores = jnp.asarray(batch['image'][:, 0, 0, 0], jnp.float32)[:, None]
        count = len(scores)
        return Detections(
            boxes=jnp.zeros((count, 2, 4)),
            scores=jnp.concatenate([scores, scores], axis=1),
            labels=jnp.zeros((count, 2), jnp.int32),
            valid=jnp.tile(jnp.array([True, False]), (count, 1)),
        )


def batch(*pixels):
    size = len(pixels)
    image = np.broadcast_to(np.reshape(pixels, (-1, 1, 1, 1)), (size, 4, 4, 3))
    ones = np.ones((size, 2))
    # Further arrays of a batch do not reach the device.
    return {'image': image, 'image_size': ones, 'scale': ones, 'skipped': ones}


def test_rows_keep_their_order_and_padding_is_dropped():
    batches = [(['a', 'b'], batch(1, 2)), (['c', None], batch(3, 4))]
    rows = list(predict(Step(), batches))
    assert [key for key, _ in rows] == ['a', 'b', 'c']
    for (_, detections), score in zip(rows, (1, 2, 3), strict=True):
        assert all(isinstance(column, np.ndarray) for column in detections)
        assert detections.boxes.shape == (1, 4) and detections.valid.tolist() == [True]
        assert detections.scores.tolist() == [score]


def test_a_few_batches_run_ahead_of_the_reader():
    step, loaded = Step(), []

    def batches():
        for number in range(6):
            loaded.append(number)
            yield [number], batch(number)

    for number, _ in predict(step, batches()):
        # The two batches after that of the reader are with the device, no more.
        assert step.calls == len(loaded) == min(number + 3, 6)
    assert number == 5
