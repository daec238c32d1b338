"""How often each image occurs in an epoch: data sets repeated, rare classes favored."""

import numpy as np

from atss_jax.data.records import Records


def occurrences(
    records: Records,
    times: np.ndarray,
    oversample_thr: float | None = None,
) -> np.ndarray:
    """(N,) int64: how often an epoch shows each image.

    Example: 100 images, 4 of them with a helmet, each set once, `oversample_thr=0.09`:
    the frequency of helmets is 0.04, so images with one count sqrt(0.09 / 0.04) = 1.5
    times, which is rounded up to 2.

    Args:
        records: the images and their objects.
        times: (N,) how often the data set of each image occurs.
        oversample_thr: classes that a smaller fraction of the images has are rare, and
            their images occur more often; None: all alike.
    """
    times = np.asarray(times, np.int64)
    if oversample_thr is None:
        return times
    factors = repeat_factors(records, times, oversample_thr)
    return times * np.ceil(factors).astype(np.int64)


def repeat_factors(
    records: Records, times: np.ndarray, oversample_thr: float
) -> np.ndarray:
    """(N,) float64, at least 1: the repeat factor of each image.

    That of a class is sqrt(oversample_thr / frequency), at least 1, where the frequency
    is the fraction of images that have the class. That of an image is the largest of
    its classes', crowd regions included, and 1 without any object.

    Args:
        records: the images and their objects.
        times: (N,) how often each image counts in the frequencies.
        oversample_thr: above 0.

    Source: mmengine.dataset.ClassBalancedDataset; the paper of LVIS (1908.03195).
    """
    if not len(records.labels):
        return np.ones(len(records))
    images = np.repeat(np.arange(len(records)), records.counts)
    # A class counts once per image, however many objects of it the image has.
    pairs = np.unique(np.stack([images, records.labels], 1), axis=0)
    images, labels = pairs.T
    frequency = np.bincount(labels, weights=times[images]) / np.sum(times)
    of_class = np.maximum(1.0, np.sqrt(oversample_thr / frequency.clip(1e-300)))
    factors = np.ones(len(records))
    np.maximum.at(factors, images, of_class[labels])
    return factors
