"""Images with annotations and detections, for tests of what compares the two."""

import numpy as np

from atss_jax.evaluation.evaluated_image import EvaluatedImage


def reviewed(annotations, detections, crowd=(), image_id=7) -> EvaluatedImage:
    """An image from rows of (id, label, box) and of (label, score, box), boxes xyxy.

    Args:
        annotations: rows; the ids of crowd regions are in `crowd`.
        detections: rows, best first.
        crowd: ids.
        image_id: COCO id.
    """
    ids = [id_ for id_, _, _ in annotations]
    return EvaluatedImage(
        image_id,
        np.array(ids, np.int64),
        np.array([box for _, _, box in annotations], float).reshape(-1, 4),
        np.array([label for _, label, _ in annotations], int),
        np.isin(ids, crowd) if ids else np.zeros(0, bool),
        np.array([box for _, _, box in detections], float).reshape(-1, 4),
        np.array([label for label, _, _ in detections], int),
        np.array([score for _, score, _ in detections], float),
    )
