"""Functions that a config may name for `UserFunction`, good ones and bad ones."""

import pathlib
import sys

import numpy as np


def darker(image, boxes, labels, rng):
    """Makes the image darker by a random factor."""
    return (image * rng.uniform(0.3, 0.9)).astype(np.uint8), boxes, labels


def without_first(image, boxes, labels, rng):
    return image, boxes[1:], labels[1:]


def in_place(image, boxes, labels, rng):
    image[:], boxes[:, :2] = 7, 0
    return image, boxes, labels.astype(np.int64)


def nothing(image, boxes, labels, rng):
    pass


def two(image, boxes, labels, rng):
    return image, boxes


def smaller(image, boxes, labels, rng):
    return image[:-1], boxes, labels


def floats(image, boxes, labels, rng):
    return image / 255, boxes, labels


def as_list(image, boxes, labels, rng):
    return image, boxes.tolist(), labels


def five_columns(image, boxes, labels, rng):
    return image, np.zeros((2, 5), np.float32), labels


def outside(image, boxes, labels, rng):
    boxes = np.array([[0, 0, image.shape[1] + 2, 9]], np.float32)
    return image, boxes, np.zeros(1, np.int32)


def turned(image, boxes, labels, rng):
    return image, np.array([[9, 0, 3, 9]], np.float32), np.zeros(1, np.int32)


def infinite(image, boxes, labels, rng):
    return image, np.array([[0, 0, np.inf, 9]], np.float32), np.zeros(1, np.int32)


def float_labels(image, boxes, labels, rng):
    return image, np.ones((1, 4), np.float32), np.zeros(1)


def too_few_labels(image, boxes, labels, rng):
    return image, np.ones((2, 4), np.float32), np.zeros(1, np.int32)


def no_such_class(image, boxes, labels, rng):
    return image, np.ones((1, 4), np.float32), np.full(1, 2)


def fails(image, boxes, labels, rng):
    raise KeyError('brightness')


def missing_file(image, boxes, labels, rng):
    pathlib.Path('/no/such/file').read_text()


def leaves(image, boxes, labels, rng):
    sys.exit(3)


def three_of_each(image, boxes, labels, rng):
    return image, np.repeat(boxes, 3, axis=0), np.repeat(labels, 3)


LARGE = 3
"""No function."""
