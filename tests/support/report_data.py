"""Detections near the objects of small images, and a report of them."""

import numpy as np

from atss_jax.data.coco.dataset import CocoDataset
from atss_jax.report.page import write_report
from tests.support.small_run import CATEGORY_IDS, write_coco


def some_results(ground_truth, seed=0):
    """Detections near the objects: some right, some shifted, some of other classes."""
    random = np.random.default_rng(seed)
    results = []
    for index, annotation in enumerate(ground_truth['annotations']):
        x, y, width, height = annotation['bbox']
        shift = (0, 0, 0, 0.5 * width)[index % 4]
        category = CATEGORY_IDS[index % 3] if index % 5 == 0 else None
        results.append(
            {
                'image_id': annotation['image_id'],
                'category_id': category or annotation['category_id'],
                'bbox': [x + shift, y, width, height],
                'score': round(float(random.uniform(0.2, 0.95)), 3),
            }
        )
    return results[:-2]  # two are missed


def open_data(folder):
    return CocoDataset(str(folder / 'val.json'), str(folder / 'val'), test_mode=True)


def written_report(folder):
    """Writes data and their report to a folder; returns path and analysis."""
    write_coco(folder, 'val', 9, seed=3)
    source, path = open_data(folder), folder / 'report.html'
    results = some_results(source.ground_truth())
    return path, write_report(path, source, results, 'a <title>', 0.3)
