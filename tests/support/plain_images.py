"""Gray images that tests draw on, and what is drawn there."""

import numpy as np

from atss_jax.drawing.boxes import class_color

CLASSES = ('cat', 'dog', 'very long class name')
GRAY = 90


def plain(height=200, width=300):
    return np.full((height, width, 3), GRAY, np.uint8)


def colored(image, label):
    """Mask of the pixels that have the class's color exactly."""
    return (image == class_color(label)).all(axis=2)
