"""The flags of `python -m atss_jax draw ...`."""

import argparse

_SPLITS = ('train', 'val', 'test')


def add(commands) -> None:
    """Adds `draw` and what it draws to the subcommands."""
    draw = commands.add_parser('draw', help='make images')
    what = draw.add_subparsers(dest='what', required=True)
    _add_detections(what)
    _add_data(what)
    _add_batch(what)
    _add_assignment(what)
    _add_run(what)


def _add(what, name, help_, run, **kwargs):
    parser = what.add_parser(name, help=help_, allow_abbrev=False, **kwargs)
    parser.add_argument('--out', required=True, help='.png or .jpg file to write')
    parser.set_defaults(run=run)
    return parser


def _add_config(what, name, help_, run):
    """A command over a config, whose fields can be set."""
    parser = _add(
        what, name, help_, run, epilog='Any config field is set by --config.FIELD=VALUE'
    )
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument('--config', help='a .py or .json file')
    group.add_argument('--workdir', help='folder of a run, for its config')
    parser.set_defaults(overrides=[])
    return parser


def _add_detections(what):
    sheet = _add(
        what,
        'detections',
        'a sheet of images: truth beside detections',
        _draw_detections,
    )
    sheet.add_argument('--workdir', required=True, help='folder of a run')
    _add_split(sheet, 'val')
    sheet.add_argument('--count', type=int, default=12, help='images (default: 12)')
    sheet.add_argument(
        '--columns', type=int, default=3, help='pairs in a row (default: 3)'
    )
    sheet.add_argument(
        '--min_score',
        type=float,
        default=0.3,
        help='detections with lower scores are not drawn (default: 0.3)',
    )


def _add_data(what):
    sheet = _add_config(
        what, 'data', 'what the loader feeds: images on their canvases', _draw_data
    )
    _add_split(sheet, 'train')
    _add_number(sheet, '--count', 12, 'images')
    _add_number(sheet, '--columns', 4, 'images in a row')


def _add_batch(what):
    sheet = _add_config(what, 'batch', 'any training batch, rebuilt', _draw_batch)
    sheet.add_argument(
        '--step', type=_positive, required=True, help='as the log counts, from 1'
    )
    sheet.add_argument(
        '--batch_size',
        type=_positive,
        help='of all devices (default: of the workdir, else data.samples_per_gpu)',
    )


def _add_assignment(what):
    sheet = _add_config(
        what,
        'assignment',
        'which anchors learn which box: candidates and positives by level',
        _draw_assignment,
    )
    _add_split(sheet, 'train')
    sheet.add_argument(
        '--image_ids',
        type=int,
        nargs='+',
        help='of the images (default: the first ones)',
    )
    _add_number(sheet, '--count', 2, 'images, without --image_ids')


def _add_run(what):
    sheet = _add(
        what, 'run', 'loss, AP, learning rate and speed over the steps', _draw_run
    )
    sheet.add_argument(
        '--workdir', required=True, nargs='+', help='folders of runs, drawn together'
    )


def _add_split(sheet, default):
    sheet.add_argument(
        '--split',
        default=default,
        choices=_SPLITS,
        help='section of data (default: %(default)s)',
    )


def _add_number(sheet, flag, default, what):
    sheet.add_argument(
        flag, type=_positive, default=default, help=f'{what} (default: %(default)s)'
    )


def _positive(text):
    if int(text) < 1:
        raise argparse.ArgumentTypeError(f'{text}: expected 1 or more')
    return int(text)


def _load(flags):
    from atss_jax.config import load_config, parse_overrides
    from atss_jax.training.workdir import config_path

    path = config_path(flags.workdir) if flags.workdir else flags.config
    return load_config(path, parse_overrides(flags.overrides))


def _draw_detections(flags):
    from atss_jax.drawing.detections import draw_detections

    said = draw_detections(
        flags.workdir,
        flags.out,
        flags.split,
        flags.count,
        flags.columns,
        flags.min_score,
    )
    print(f'wrote {flags.out}: {said}')


def _draw_data(flags):
    from atss_jax.drawing.training_data import draw_data

    draw_data(_load(flags), flags.out, flags.split, flags.count, flags.columns)
    print(f'wrote {flags.out}')


def _draw_batch(flags):
    from atss_jax.drawing.training_data import draw_batch

    config = _load(flags)
    draw_batch(config, flags.out, flags.step, flags.batch_size, flags.workdir)
    print(f'wrote {flags.out}')


def _draw_assignment(flags):
    from atss_jax.drawing.assignment import draw_assignment

    config = _load(flags)
    draw_assignment(config, flags.out, flags.split, flags.image_ids, flags.count)
    print(f'wrote {flags.out}')


def _draw_run(flags):
    from atss_jax.drawing.runs import draw_run

    draw_run(flags.workdir, flags.out)
    print(f'wrote {flags.out}')
