"""`atss draw`: images of data, batches, assignment, detections and runs."""

import argparse

from atss_jax.commands import command_line

_SPLITS = ('train', 'val', 'test')


def parser(program: str = 'atss draw') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program, 'Draws data, batches, assignment, detections and runs.'
    )
    what = flags.add_subparsers(dest='what', required=True)
    _add_detections(what)
    _add_data(what)
    _add_batch(what)
    _add_assignment(what)
    _add_run(what)
    return flags


def main(arguments: list[str], program: str = 'atss draw') -> int:
    """Draws as the flags say; gives the exit status."""
    parse = parser(program)
    flags, others = parse.parse_known_args(arguments)
    if hasattr(flags, 'overrides'):
        flags.overrides = others
    elif others:
        parse.error(f'unrecognized arguments: {" ".join(others)}')
    return command_line.guard(program, lambda: _draw(flags))


def _draw(flags):
    from atss_jax.files.atomic import check_file_writable

    check_file_writable(flags.out)
    flags.run(flags)


def _add(what, name, help_, run, **kwargs):
    parser = what.add_parser(name, help=help_, allow_abbrev=False, **kwargs)
    parser.add_argument(
        '--out',
        type=command_line.path,
        required=True,
        help='.png or .jpg file to write',
    )
    parser.set_defaults(run=run)
    return parser


def _add_config(what, name, help_, run, is_required=True):
    """Adds a command over a config, whose fields can be set."""
    parser = _add(what, name, help_, run, epilog=command_line.FIELDS_HELP)
    group = parser.add_mutually_exclusive_group(required=is_required)
    group.add_argument(
        '--config', type=command_line.path, help=command_line.CONFIG_HELP
    )
    group.add_argument(
        '--workdir',
        type=command_line.path,
        help='folder of a run, whose config is taken',
    )
    parser.add_argument(
        '--data',
        type=command_line.path,
        help=f'your own data in place of those of the config: {command_line.DATA_HELP}',
    )
    parser.set_defaults(overrides=[])
    return parser


def _add_detections(what):
    sheet = _add(
        what,
        'detections',
        'a sheet of images: ground truth next to detections',
        _draw_detections,
    )
    sheet.add_argument(
        '--workdir', type=command_line.path, required=True, help='folder of a run'
    )
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
        what,
        'data',
        'what the loader gives: images on their canvases; with --data alone, images '
        'and boxes of a data set',
        _draw_data,
        is_required=False,
    )
    sheet.add_argument(
        '--split',
        help='section of data; with --data alone, any split of it (default: train)',
    )
    _add_number(sheet, '--count', 12, 'images')
    _add_number(sheet, '--columns', 4, 'images in a row')


def _add_batch(what):
    sheet = _add_config(what, 'batch', 'any training batch, rebuilt', _draw_batch)
    sheet.add_argument(
        '--step',
        type=command_line.positive,
        required=True,
        help='step, counted from 1 as in the log',
    )
    sheet.add_argument(
        '--batch_size',
        type=command_line.positive,
        help='images of all devices (default: those of the workdir, else '
        'data.samples_per_gpu)',
    )


def _add_assignment(what):
    sheet = _add_config(
        what,
        'assignment',
        'which anchors are assigned to which box: candidates and positives per level',
        _draw_assignment,
    )
    _add_split(sheet, 'train')
    sheet.add_argument(
        '--image_ids',
        type=int,
        nargs='+',
        help='ids of the images (default: the first ones)',
    )
    _add_number(sheet, '--count', 2, 'images, without --image_ids')


def _add_run(what):
    sheet = _add(
        what, 'run', 'loss, AP, learning rate and speed over the steps', _draw_run
    )
    sheet.add_argument(
        '--workdir',
        type=command_line.path,
        required=True,
        nargs='+',
        help='folders of runs, drawn together',
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
        flag,
        type=command_line.positive,
        default=default,
        help=f'{what} (default: %(default)s)',
    )


def _load(flags):
    from atss_jax.config import load_config, parse_overrides
    from atss_jax.training.workdir import config_path

    path = config_path(flags.workdir) if flags.workdir else flags.config
    return load_config(path, parse_overrides(flags.overrides), flags.data)


def _draw_detections(flags):
    from atss_jax.drawing.detections import draw_detections

    summary = draw_detections(
        flags.workdir,
        flags.out,
        flags.split,
        flags.count,
        flags.columns,
        flags.min_score,
    )
    print(f'wrote {flags.out}: {summary}')


def _draw_data(flags):
    from atss_jax.config import parse_overrides
    from atss_jax.drawing.training_data import draw_data, draw_form

    if flags.config is None and flags.workdir is None:
        if flags.data is None:
            raise ValueError('draw data needs --config, --workdir or --data')
        shape, fields = (flags.count, flags.columns), parse_overrides(flags.overrides)
        print(draw_form(flags.data, flags.out, flags.split, shape, fields))
    else:
        split = flags.split or 'train'
        if split not in _SPLITS:
            expected = ', '.join(_SPLITS)
            raise ValueError(f'--split {split}: expected one of {expected}')
        draw_data(_load(flags), flags.out, split, flags.count, flags.columns)
    print(f'wrote {flags.out}')


def _draw_batch(flags):
    from atss_jax.drawing.training_data import draw_batch

    config = _load(flags)
    summary = draw_batch(config, flags.out, flags.step, flags.batch_size, flags.workdir)
    print(f'{summary}\nwrote {flags.out}')


def _draw_assignment(flags):
    from atss_jax.drawing.assignment import draw_assignment

    config = _load(flags)
    draw_assignment(config, flags.out, flags.split, flags.image_ids, flags.count)
    print(f'wrote {flags.out}')


def _draw_run(flags):
    from atss_jax.drawing.runs import draw_run

    draw_run(flags.workdir, flags.out)
    print(f'wrote {flags.out}')
