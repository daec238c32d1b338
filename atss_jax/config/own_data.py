"""Puts a user's own data into a config, in place of the data that it names."""

from collections.abc import Mapping, MutableMapping
from typing import Any

from atss_jax.data.forms.dataset import check_split
from atss_jax.data.forms.finder import Finder, plain_path
from atss_jax.data.forms.form import Form

# Fields of a data section that do not say where the data are.
_KEPT = ('pipeline', 'filter_empty_gt', 'min_size', 'times', 'oversample_thr')
_ADDED = {'train': {'filter_empty_gt': True, 'min_size': 32, 'times': 1}}


def use_data(
    config: MutableMapping[str, Any],
    path: str,
    train: str = 'train',
    val: str = 'val',
    test: str | None = None,
) -> None:
    """Makes a config read the data at a path, whatever their form; opens no files.

    Each of `data.train`, `data.val` and `data.test` becomes a section of `type='auto'`,
    with its pipeline as it was. `model.bbox_head.num_classes` is not touched.

    Args:
        config: changed in place.
        path: folder, annotation file or address of the data.
        train: split of the data that is trained on.
        val: split that is evaluated during training.
        test: split of `data.test`; None: that of `data.val`.
    """
    path = plain_path(path)  # a run is resumed with `folder/` and `./folder`
    data = config['data']
    splits = {'train': train, 'val': val, 'test': val if test is None else test}
    for section, split in splits.items():
        old: Mapping[str, Any] = data[section]
        kept = {name: old[name] for name in _KEPT if name in old}
        if old.get('type') == 'ShapesDataset':
            kept.pop('min_size', None)  # there, the smallest image that is generated
        data[section] = {
            'type': 'auto',
            'path': path,
            'split': split,
            'classes': None,
            'indices': None,
            **_ADDED.get(section, {}),
            **kept,
        }


def splits_of(form: Form) -> dict[str, str]:
    """The splits of a data set to train on, to evaluate with and to test with.

    Raises:
        ValueError: it has no `train` or no `val`.
    """
    check_split(form, 'train', '')
    check_split(form, 'val', '')
    test = 'test' if 'test' in form.splits else 'val'
    return {'train': 'train', 'val': 'val', 'test': test}


def use_found_data(
    config: MutableMapping[str, Any],
    path: str,
    on_error: str | None = None,
    finder: Finder | None = None,
) -> Form:
    """Makes a config read the data that lie at a path, and have their classes.

    Args:
        config: changed in place.
        path: folder, annotation file or address of the data.
        on_error: 'raise' or 'skip' malformed records when the classes are read; None:
            as the config says.
        finder: may have found or read the data already.

    Returns:
        What was found.

    Raises:
        FileNotFoundError: there is nothing at `path`.
        ValueError: no known form lies there, it is malformed, or it is not divided into
            training and evaluation data.
    """
    finder = Finder() if finder is None else finder
    path = plain_path(path)
    form = finder.find(path)
    use_data(config, path, **splits_of(form))
    on_error = on_error or config['data']['on_error']
    classes = finder.read(path, 'train', on_error).categories
    config['model']['bbox_head']['num_classes'] = len(classes)
    return form
