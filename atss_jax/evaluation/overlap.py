"""Which detection belongs to which object, by the overlap of their boxes."""

import numpy as np


def pairwise_iou(
    boxes: np.ndarray, gt_boxes: np.ndarray, is_crowd: np.ndarray | None = None
) -> np.ndarray:
    """(N,G) IoU; for a crowd region, the share of the detection that lies inside.

    Args:
        boxes: (N,4) xyxy.
        gt_boxes: (G,4) xyxy.
        is_crowd: (G,) bool; None: there is none.
    """
    first = np.maximum(boxes[:, None, :2], gt_boxes[None, :, :2])
    last = np.minimum(boxes[:, None, 2:], gt_boxes[None, :, 2:])
    intersection = np.maximum(last - first, 0).prod(-1)
    area = (boxes[:, 2:] - boxes[:, :2]).prod(-1)[:, None]
    whole = area + (gt_boxes[:, 2:] - gt_boxes[:, :2]).prod(-1) - intersection
    if is_crowd is not None:
        whole = np.where(is_crowd, area, whole)
    iou = np.zeros(intersection.shape, np.result_type(intersection, np.float32))
    return np.divide(intersection, whole, out=iou, where=whole > 0)


def match_best_first(overlap: np.ndarray) -> np.ndarray:
    """Matches detections, best first, each to the free object it overlaps most.

    Args:
        overlap: (N,G), detections best first; 0 where the two must not match.

    Returns:
        (N,) the object that each detection matches, -1 for none.
    """
    free = overlap.copy()
    gt_index = np.full(len(free), -1)
    for row in np.flatnonzero(free.any(1)):
        best = int(free[row].argmax())
        if free[row, best] > 0:
            gt_index[row] = best
            free[:, best] = 0
    return gt_index
