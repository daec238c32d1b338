"""A mmdetection config and checkpoint as a workdir: what `import-mmdet` does."""

import dataclasses
import os
import pathlib

from ml_collections import ConfigDict

from atss_jax.config import as_dict, build_experiment, load_config
from atss_jax.config.experiment import SPLITS
from atss_jax.config.sections import flatten
from atss_jax.data.coco import annotation_file
from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.section import plain
from atss_jax.mmdet_config.translate import Translation, translate
from atss_jax.training import convert

# What mmdet's configs do not say, such as `data.max_boxes`, is taken from here.
DEFAULTS = pathlib.Path(__file__).parent.parent / 'configs' / 'atss_r50_1x.py'


def read_config(
    path: str | os.PathLike, mmdet_configs: str | os.PathLike | None = None
) -> tuple[ConfigDict, Translation]:
    """The equivalent of a mmdet config file, checked, and how it came about.

    Args:
        path: mmdetection's `.py` file, 2.x or 3.x. It is parsed, not run.
        mmdet_configs: what `mmdet::` in its `_base_` stands for.

    Raises:
        ValueError: something in it is not supported; says what and where.
    """
    translation = translate(source.read(path, mmdet_configs))
    try:
        return load_config(str(DEFAULTS), translation.fields), translation
    except ValueError as error:
        raise ValueError(f'{path}, translated: {error}') from error


def import_mmdet(
    config_file: str,
    checkpoint_file: str,
    workdir: str,
    mmdet_configs: str | None = None,
    options: convert.Options | None = None,
) -> tuple[ConfigDict, Translation]:
    """Makes a workdir of a mmdet config and checkpoint; gives what `read_config` does.

    Raises:
        ValueError: either cannot be read or is not supported, they do not go together,
            or the workdir has checkpoints already.
    """
    config, translation = read_config(config_file, mmdet_configs)
    experiment = build_experiment(config)
    checkpoint = convert.read(checkpoint_file, experiment, options or convert.Options())
    _check_names(config, checkpoint.classes, checkpoint_file)
    classes = label_order(config, checkpoint.classes)
    for split in SPLITS:
        if config.data[split].classes is not None:
            config.data[split].classes = classes
    checkpoint = dataclasses.replace(checkpoint, classes=classes)
    convert.write_workdir(workdir, config, checkpoint)
    return config, translation


def _check_names(config, classes, checkpoint_file):
    """The config may name classes too; mmdet labels by the data set's."""
    for split in SPLITS:
        named = config.data[split].classes
        if classes is not None and named is not None and tuple(named) != classes:
            raise ValueError(
                f'{checkpoint_file} is for the classes {classes}, but the config has '
                f'{tuple(named)} for its {split} data'
            )


def label_order(
    config: ConfigDict, classes: tuple[str, ...] | None
) -> tuple[str, ...] | None:
    """Class names in the order of mmdet's labels.

    mmdet numbers labels in the order of the annotation file's categories, whatever the
    order in which the config names them. That shows only in the file, if it is here.
    Where nobody names any, its `CocoDataset` goes by the 80 of COCO.

    Args:
        config: ours, translated.
        classes: names from the checkpoint, or None.

    Raises:
        ValueError: the file lacks some of them.
    """
    train = config.data.train
    classes = classes or (tuple(train.classes) if train.classes else None)
    has_file = train.type == 'CocoDataset' and pathlib.Path(train.ann_file).is_file()
    if classes is None and _may_be_coco(config):
        in_file = _categories(train.ann_file) if has_file else COCO_CLASSES
        return in_file if set(in_file) == set(COCO_CLASSES) else None
    if train.classes is None or not has_file:
        return classes
    in_file = _categories(train.ann_file)
    if missing := sorted(set(classes) - set(in_file)):
        raise ValueError(f'{train.ann_file} has no categories {missing}')
    return tuple(name for name in in_file if name in classes)


def _may_be_coco(config):
    is_of_coco = config.model.bbox_head.num_classes == len(COCO_CLASSES)
    return config.data.train.type == 'CocoDataset' and is_of_coco


def _categories(ann_file):
    return tuple(annotation_file.read(ann_file).categories.values())


def describe(config: ConfigDict, translation: Translation) -> str:
    """For people: what differs from our R50 config, and what was left out."""
    ours, base = (flatten(as_dict(c)) for c in (config, load_config(str(DEFAULTS))))
    differing = [
        f'  {path} = {plain(value)!r}'
        for path, value in sorted(ours.items())
        if path not in base or plain(base[path]) != plain(value)
    ]
    left_out = [
        f'  {path} = {_short(value)}' for path, value in translation.unused.items()
    ]
    return '\n'.join(
        [
            f'a config of mmdetection {translation.style}; unlike {DEFAULTS.name}:',
            *(differing or ['  nothing']),
            'left out, since it changes no number here:',
            *(left_out or ['  nothing']),
            'names that no part of mmdetection reads: '
            + (', '.join(translation.variables) or 'none'),
        ]
    )


def _short(value, most=60):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= most else f'{text[: most - 3]}...'
