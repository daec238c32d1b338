"""How to divide a data set that lacks a split to train on or to evaluate with."""

import os
import shlex

from atss_jax.data.forms.form import Form


def lacking_splits(form: Form) -> list[str]:
    """Those of train and val, which training needs, that are not there."""
    return [split for split in ('train', 'val') if split not in form.splits]


def split_to_divide(form: Form) -> str | None:
    """The split of a divided data set to take `val` from, so that the others stay.

    None if the data set is not divided, or if all of it has to be divided anew.
    """
    if len(form.splits) == 1 or 'val' in form.splits:
        return None
    return next(filter(form.splits.__contains__, ('train', 'trainval')), None)


def way_to_divide(form: Form) -> str:
    """What `split_command` does, as the beginning of a sentence about it."""
    if divided := split_to_divide(form):
        kept = ' and '.join(split for split in form.splits if split != divided)
        return f'To divide {divided} into train and val and keep {kept}'
    if len(form.splits) > 1:
        return 'To pool all splits and divide them anew'
    return 'To divide it'


def split_command(path: str, form: Form) -> str:
    """The command that divides a data set, ready to be pasted.

    Args:
        path: of the data set, as the user gave it.
        form: the data set.
    """
    words = ['atss', 'split', path, '--out', _new_folder(form.path)]
    if divided := split_to_divide(form):
        return shlex.join([*words, '--split', divided])
    if len(form.splits) > 1:
        words.append('--join')
    if 'test' in form.splits:
        words += ['--test', '0.1']
    return shlex.join(words)


def _new_folder(path: str) -> str:
    """A folder that does not exist yet, next to the data if they are files."""
    if '://' in path:
        base = path.rpartition('/')[2].partition('?')[0].partition('@')[0]
    else:
        # An annotation file is named without its ending.
        place = os.path.abspath(path)
        base = place if os.path.isdir(place) else os.path.splitext(place)[0]
        if not os.access(os.path.dirname(base), os.W_OK):
            base = os.path.basename(base)
        elif not os.path.isabs(path):
            base = os.path.relpath(base)
    folder, number = f'{base}_divided', 2
    while os.path.exists(folder):
        folder, number = f'{base}_divided{number}', number + 1
    return folder
