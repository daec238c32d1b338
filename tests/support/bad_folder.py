"""Ten images with an annotation file that tests damage, and batches of them."""

import dataclasses
import json

import cv2
import numpy as np

from atss_jax.data.batch import Pipeline, load_row
from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.data.loader import EvalBatches, TrainBatches
from atss_jax.data.plan import TrainPlan, eval_batches

SIZE = (40, 60)
PIPELINE = Pipeline((60, 40), flip_ratio=0.5, max_boxes=2, max_bad_pictures=0.3)
CANVAS = (64, 64)
BATCH = 4


class Folder:
    """Ten images of one size, ids 10 to 19, each of one gray level and with one box."""

    def __init__(self, path):
        self.images, self.file = path / 'images', path / 'annotations.json'
        self.images.mkdir()
        self.content = {
            'images': [
                {'id': k, 'file_name': f'{k}.png', 'height': 40, 'width': 60}
                for k in range(10, 20)
            ],
            'annotations': [
                {
                    'id': k + 100,
                    'image_id': k,
                    'category_id': 3,
                    'bbox': [1, 2, 10, 20],
                    'area': 200,
                    'iscrowd': 0,
                }
                for k in range(10, 20)
            ],
            'categories': [{'id': 3, 'name': 'cell'}, {'id': 5, 'name': 'dish'}],
        }
        for k in range(10, 20):
            image = np.full((*SIZE, 3), 10 * k, np.uint8)
            cv2.imwrite(str(self.images / f'{k}.png'), image)

    def load(self, **kwargs):
        if isinstance(self.content, bytes):
            self.file.write_bytes(self.content)
        else:
            self.file.write_text(json.dumps(self.content))
        return CocoDataset(str(self.file), str(self.images), **kwargs)

    def spoil(self, content, number=13):
        """Replaces the content of one of the image files."""
        (self.images / f'{number}.png').write_bytes(content)


def train_batches(source, pipeline=PIPELINE, rows=(0, BATCH), seed=0):
    canvases = pipeline.all_canvases()
    plan = TrainPlan(pipeline.canvas_index(source), canvases, BATCH, seed)
    return TrainBatches(source, plan, pipeline, rows)


def evaluation(source, pipeline=PIPELINE):
    batches = eval_batches(pipeline.canvas_index(source), BATCH)
    return EvalBatches(source, pipeline, batches, (0, BATCH))


def first_record(source, flip=False, **changes):
    """The first record, loaded as a row of a batch."""
    pipeline = dataclasses.replace(PIPELINE, **changes)
    return load_row(source, 0, pipeline.all_canvases()[0], pipeline, flip)


def epoch(batches):
    return [batches(step) for step in range(batches.plan.steps_per_epoch)]
