"""A data set of noise in memory, batches of it, and scripts that load batches."""

import subprocess
import sys

import numpy as np

from atss_jax.data.batch import Pipeline
from atss_jax.data.loader import TrainBatches, prefetch
from atss_jax.data.plan import TrainPlan
from atss_jax.data.records import Record, Records
from atss_jax.data.shapes.dataset import ShapesDataset
from tests.conftest import ROOT

G = 5
PIPELINE = Pipeline((64, 32), flip_ratio=0.5, max_boxes=G)


class Source:
    """Images of noise in memory, of two shapes, with 0 to 4 boxes each."""

    classes, category_ids = ('a', 'b'), (3, 9)

    def __init__(self, count=11):
        random = np.random.default_rng(0)
        self.records = Records.from_list(
            [self._record(random, k) for k in range(count)]
        )

    def _record(self, random, index):
        height, width = size = ((40, 80), (70, 35))[index % 2]
        corner = random.uniform(0, [width / 2, height / 2], (index % 5, 2))
        boxes = np.concatenate(
            [corner, corner + random.uniform(5, 30, corner.shape)], 1
        )
        return Record(
            image_id=500 - index,
            file_name=f'{index}.png',
            size=size,
            boxes=boxes.astype(np.float32),
            labels=random.integers(0, 2, index % 5).astype(np.int32),
            ignored=np.arange(index % 5) == 3,
        )

    def read_image(self, record):
        random = np.random.default_rng(record.image_id)
        return random.integers(1, 256, (*record.size, 3)).astype(np.uint8)


def train_batches(source=None, rows=(0, 4), pipeline=PIPELINE, occurrences=None):
    """Batches of 4 rows; `occurrences` are those of records 0, 1, 0, 1 and so on."""
    source = source or Source()
    index = pipeline.canvas_index(source)
    if occurrences is not None:
        occurrences = np.resize(occurrences, len(index))
    plan = TrainPlan(index, pipeline.all_canvases(), 4, 1, occurrences)
    return TrainBatches(source, plan, pipeline, rows)


def assert_same(batch, other):
    assert set(batch) == set(other)
    for name in batch:
        assert batch[name].dtype == other[name].dtype, name
        np.testing.assert_array_equal(batch[name], other[name], err_msg=name)


def assert_hosts_load_slices(batches_of, middle):
    """Two hosts load the first `middle` rows of the global batch and the others.

    Args:
        batches_of: gives the batches of a range of rows.
        middle: 1 to 3.
    """
    whole = batches_of((0, 4))
    hosts = [batches_of(rows) for rows in ((0, middle), (middle, 4))]
    for step in (0, 7):
        slices = [host(step) for host in hosts]
        joined = {k: np.concatenate([s[k] for s in slices]) for k in slices[0]}
        assert_same(joined, whole(step))


def assert_rebuilt_alone(new_batches, steps=12):
    """Any batch is the same alone, in the stream, and in one that starts later."""
    stream = list(prefetch(new_batches(), 0, steps, workers=0))
    for step in (steps - 1, 3, 0):
        assert_same(new_batches()(step), stream[step])
    resumed = prefetch(new_batches(), 7, steps, workers=0)
    assert_same(next(resumed), stream[7])


def shapes_batches(source=None):
    source = source or ShapesDataset(21, min_size=64, max_size=80, max_objects=G)
    return train_batches(source)


PREAMBLE = """
import sys
import numpy as np
from atss_jax.data.loader import prefetch, started
from tests.support.batches import shapes_batches

def main():
    batches = shapes_batches()
"""


def run_script(body, path):
    """Runs `body`, in which `batches` is at hand, in a program of its own."""
    code = PREAMBLE + body + "\nif __name__ == '__main__':\n    main()\n"
    (path / 'script.py').write_text(code)
    done = subprocess.run(
        [sys.executable, str(path / 'script.py')],
        cwd=ROOT,
        env={'PYTHONPATH': str(ROOT), 'PATH': '/usr/bin:/bin'},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done
