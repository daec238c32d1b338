"""`atss import-mmdet`: a workdir of an mmdetection config and checkpoint."""

import argparse
import dataclasses
import os
import pathlib
import shlex

from ml_collections import ConfigDict

from atss_jax.commands import command_line
from atss_jax.commands.convert import add_weight_flags
from atss_jax.config import as_dict, build_experiment, load_config
from atss_jax.config.experiment import SPLITS
from atss_jax.config.tree import flatten
from atss_jax.data.coco import annotation_file
from atss_jax.data.coco.annotation_file import COCO_CLASSES
from atss_jax.mmdet_config import source
from atss_jax.mmdet_config.section import plain
from atss_jax.mmdet_config.translate import Translation, translate
from atss_jax.training import convert

# What mmdet's configs do not say, such as `data.max_boxes`, is taken from here.
DEFAULTS = 'atss_r50_1x'


def parser(program: str = 'atss import-mmdet') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Makes a workdir of an mmdetection config and checkpoint, to evaluate or '
        'fine-tune.',
        'The config is parsed, not run. See docs/mmdet.md.',
    )
    flags.add_argument(
        'config',
        type=command_line.path,
        help="mmdetection's config file, 2.x or 3.x (.py)",
    )
    flags.add_argument('checkpoint', type=command_line.path, help='its weights (.pth)')
    flags.add_argument(
        '--workdir', type=command_line.path, required=True, help='folder to make'
    )
    flags.add_argument(
        '--mmdet_configs',
        type=command_line.path,
        help="mmdetection's folder configs, for bases that begin with mmdet::",
    )
    add_weight_flags(flags)
    return flags


def main(arguments: list[str], program: str = 'atss import-mmdet') -> int:
    """Imports as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        config, translation = import_mmdet(
            flags.config,
            flags.checkpoint,
            flags.workdir,
            flags.mmdet_configs,
            convert.Options(None, flags.momentum, flags.unaveraged),
        )
        print(describe(config, translation))
        evaluate = command_line.other_command('eval')
        place = shlex.quote(f'--workdir={flags.workdir}')
        print(f'wrote {flags.workdir}: {evaluate} {place}')

    return command_line.guard(program, action)


def read_config(
    path: str | os.PathLike, mmdet_configs: str | os.PathLike | None = None
) -> tuple[ConfigDict, Translation]:
    """Our config that is equivalent to an mmdet config file, and how it was translated.

    Args:
        path: mmdetection's `.py` file, 2.x or 3.x. It is parsed, not run.
        mmdet_configs: the folder that `mmdet::` in its `_base_` stands for.

    Raises:
        ValueError: something in it is not supported; the message says what and where.
    """
    translation = translate(source.read_lazily(path, mmdet_configs))
    fields = _sections_of_joined(translation.fields) | translation.fields
    try:
        return load_config(DEFAULTS, fields), translation
    except ValueError as error:
        raise ValueError(f'{path}, translated: {error}') from error


def _sections_of_joined(fields):
    """Whole sections in place of those of `DEFAULTS`, for data sets that are joined.

    Theirs has fields of a single data set.
    """
    data = as_dict(load_config(DEFAULTS))['data']
    return {
        f'data.{split}': {
            name: data[split][name]
            for name in ('pipeline', 'times', 'oversample_thr')
            if name in data[split]
        }
        for split in SPLITS
        if fields.get(f'data.{split}.type') == 'ConcatDataset'
    }


def import_mmdet(
    config_file: str,
    checkpoint_file: str,
    workdir: str,
    mmdet_configs: str | None = None,
    options: convert.Options | None = None,
) -> tuple[ConfigDict, Translation]:
    """Makes a workdir of an mmdet config and checkpoint; returns as `read_config` does.

    Raises:
        ValueError: either cannot be read or is not supported, they do not go together,
            or the workdir already has checkpoints.
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
    """Compares with the names in the config; mmdet labels by those of the data set."""
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
    order in which the config names them; only the file, if it is here, shows that
    order. Where no names are given, its `CocoDataset` has the 80 classes of COCO.

    Args:
        config: our config, translated from mmdet's.
        classes: names from the checkpoint, or None.

    Raises:
        ValueError: the annotation file lacks some of the classes.
    """
    train = config.data.train
    classes = classes or (tuple(train.classes) if train.classes else None)
    ann_file = os.path.expanduser(_first_file(train))
    has_file = pathlib.Path(ann_file).is_file()
    if classes is None and _may_be_coco(config):
        in_file = _categories(ann_file) if has_file else COCO_CLASSES
        return in_file if set(in_file) == set(COCO_CLASSES) else None
    if train.classes is None or not has_file:
        return classes
    in_file = _categories(ann_file)
    if missing := sorted(set(classes) - set(in_file)):
        raise ValueError(f'{ann_file} has no categories {missing}')
    return tuple(name for name in in_file if name in classes)


def _first_file(data):
    """The annotation file whose categories mmdet's labels follow; '' for none."""
    if data.type == 'ConcatDataset':
        return _first_file(ConfigDict(data.datasets[0]))
    if data.type != 'CocoDataset':
        return ''
    return data.ann_file if isinstance(data.ann_file, str) else data.ann_file[0]


def _may_be_coco(config):
    is_of_coco = config.model.bbox_head.num_classes == len(COCO_CLASSES)
    return bool(_first_file(config.data.train)) and is_of_coco


def _categories(ann_file):
    return tuple(annotation_file.read_listing(ann_file).categories.values())


def describe(config: ConfigDict, translation: Translation) -> str:
    """A summary for the user: what differs from our R50 config, what was left out."""
    ours, base = (flatten(as_dict(c)) for c in (config, load_config(DEFAULTS)))
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
            f'a config of mmdetection {translation.style}; different from {DEFAULTS}:',
            *(differing or ['  nothing']),
            'left out, since it changes no number here:',
            *(left_out or ['  nothing']),
            'variables of the config that mmdetection itself does not read: '
            + (', '.join(translation.variables) or 'none'),
        ]
    )


def _short(value, limit=60):
    text = value if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f'{text[: limit - 3]}...'
