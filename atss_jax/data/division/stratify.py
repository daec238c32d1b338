"""Which images go to which split: groups stay together, classes keep their shares."""

from collections.abc import Sequence

import numpy as np


def join_groups(keys: Sequence[Sequence[str]]) -> np.ndarray:
    """(N,) int64 group of each image; images that share a key are in one group.

    Sharing is passed on: if a and b share a key, and b and c another, all three are in
    one group. Groups are numbered in the order of their first images.

    Args:
        keys: of each image, such as the digest of its pixels.
    """
    parent = list(range(len(keys)))

    def root(image):
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    first_with = {}
    for image, image_keys in enumerate(keys):
        for key in image_keys:
            other = root(first_with.setdefault(key, image))
            small, large = sorted((other, root(image)))
            parent[large] = small
    roots = [root(image) for image in range(len(keys))]
    return np.unique(roots, return_inverse=True)[1].reshape(-1)


def assign_splits(
    counts: np.ndarray, sizes: np.ndarray, shares: Sequence[float], seed: int
) -> np.ndarray:
    """(G,) int64 split of each group.

    The class with the fewest objects that are not assigned yet is next: each group with
    such objects, in an order sampled at random, goes to the split that lacks most of
    this class, and among equals to the one that lacks most images. At the end, the
    first split gets a group of each class that it has none of, so that training sees
    all classes, and a split without any group gets one that can be spared.

    Args:
        counts: (G,C) number of objects of each class in each group. Groups without
            any are assigned at the end, so that the numbers of images fit.
        sizes: (G,) number of images of each group.
        shares: of each split; their sum is 1.
        seed: of the random order. It is applied to the groups in the order given.

    Source: Sechidis et al., On the Stratification of Multi-Label Data, 2011, section
    3.1, with groups and numbers of objects in the place of images and labels.
    """
    shares = np.array(shares, np.float64)
    wanted = shares[:, None] * counts.sum(axis=0)  # (S,C) objects still to assign
    wanted_images = shares * sizes.sum()
    split_of = np.full(len(counts), -1, np.int64)
    rank = np.random.default_rng(seed).permutation(len(counts))
    allowed = np.flatnonzero(shares > 0)

    def assign(group, lacking):
        best = max(allowed, key=lambda split: (lacking[split], wanted_images[split]))
        split_of[group] = best
        wanted[best] -= counts[group]
        wanted_images[best] -= sizes[group]

    while True:
        rest = counts[split_of < 0].sum(axis=0)
        if not rest.any():
            break
        label = np.argmin(np.where(rest > 0, rest, np.inf))
        groups = np.flatnonzero((split_of < 0) & (counts[:, label] > 0))
        for group in groups[np.argsort(rank[groups])]:
            assign(group, wanted[:, label])
    for group in np.flatnonzero(split_of < 0)[np.argsort(rank[split_of < 0])]:
        assign(group, wanted_images)
    _complete_first(split_of, counts, sizes)
    _fill_empty(split_of, counts, sizes, rank, allowed)
    return split_of


def _complete_first(split_of, counts, sizes):
    """Moves the smallest group with it to the first split, for each class it lacks."""
    for label in range(counts.shape[1]):
        groups = np.flatnonzero(counts[:, label] > 0)
        if groups.size and not (split_of[groups] == 0).any():
            split_of[groups[np.argmin(sizes[groups])]] = 0


def _fill_empty(split_of, counts, sizes, rank, allowed):
    """Gives each split without any group one of the split with the most to spare.

    It is one of few images and objects, which are missed least there. The first split
    spares no group that alone has a class there.
    """
    for split in allowed:
        if (split_of == split).any():
            continue
        spare = {other: _spare(split_of, counts, other) for other in allowed}
        groups = max(spare.values(), key=len)
        if len(groups):
            objects = counts[groups].sum(axis=1)
            order = np.lexsort((rank[groups], objects, sizes[groups]))
            split_of[groups[order[0]]] = split


def _spare(split_of, counts, split):
    """Groups that a split can do without: not its only one, nor one that alone has a
    class in the first split."""
    groups = np.flatnonzero(split_of == split)
    if len(groups) < 2:
        return groups[:0]
    if split > 0:
        return groups
    is_only = (counts[groups] > 0) & ((counts[groups] > 0).sum(axis=0) == 1)
    return groups[~is_only.any(axis=1)]
