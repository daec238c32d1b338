"""Prefixes that programs put before the names of a model's weights."""

from collections.abc import Iterable, Mapping

import numpy as np

# Of DataParallel, of torch.compile, and of modules that hold the detector as `model`,
# as PyTorch Lightning's do.
_WRAPPERS = ('module.', '_orig_mod.', 'model.')


def without_wrappers(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes prefixes of wrappers that all names have, such as 'module.'."""
    while prefix := _common_wrapper(weights):
        weights = {name.removeprefix(prefix): x for name, x in weights.items()}
    return dict(weights)


def _common_wrapper(names):
    for prefix in _WRAPPERS:
        if names and all(name.startswith(prefix) for name in names):
            return prefix
    return None


def prefixes_of(names: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """The prefixes with which `names` has all of the wanted names, in order.

    Args:
        names: names in a file.
        wanted: names that are looked for, without counters of batches.
    """
    names, wanted = set(names), list(wanted)
    if not wanted:
        return []
    first = wanted[0]
    candidates = {
        name.removesuffix(first) for name in names if name.endswith(f'.{first}')
    }
    return sorted(
        prefix
        for prefix in candidates
        if all(f'{prefix}{name}' in names for name in wanted)
    )


def describe_prefixes(prefixes: list[str]) -> str:
    """Says which prefixes names have, and how to remove them."""
    listed = ' and '.join(map(repr, prefixes))
    return (
        f'they are there with {listed} before their names, since another model '
        'contains this one; save a checkpoint without it: '
        f'{{name.removeprefix({prefixes[0]!r}): x for name, x in state_dict.items() '
        f'if name.startswith({prefixes[0]!r})}}'
    )
