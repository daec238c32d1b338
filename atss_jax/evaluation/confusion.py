"""Which class is taken for which, and what is seen where nothing is."""

from collections.abc import Sequence

import numpy as np

from atss_jax.evaluation.matching import Picture, match


def confusion_matrix(
    pictures: Sequence[Picture],
    num_classes: int,
    min_score: float,
    threshold: float = 0.5,
) -> np.ndarray:
    """(C+1, C+1) counts: row the true class, column the detected one, last background.

    Detections find objects of their own class first. The others then, best first, take
    the object left over that they overlap most, of whatever class. So a confusion is
    counted only where the right answer was not given as well.

    Args:
        pictures: truth and detections.
        num_classes: C.
        min_score: detections below it are not looked at.
        threshold: IoU from which a detection is about an object.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), int)
    for picture in pictures:
        matched = match(picture, threshold)
        considered = (picture.scores >= min_score) & ~matched.ignored
        # Best first: those below the score took nothing from those above it.
        truth = np.where(considered, matched.truth, -1)
        left = np.ones(len(picture.labels), bool) & ~picture.crowd
        left[truth[truth >= 0]] = False
        for row in np.flatnonzero(considered & (truth < 0)):
            overlap = np.where(left, matched.iou[row], 0)
            if len(overlap) and overlap.max() >= threshold:
                truth[row] = overlap.argmax()
                left[truth[row]] = False
        true_labels = np.append(picture.labels, num_classes)[truth]
        found = considered.nonzero()
        np.add.at(counts, (true_labels[found], picture.found_labels[found]), 1)
        np.add.at(counts, (picture.labels[left], num_classes), 1)
    return counts
