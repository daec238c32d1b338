"""`atss prepare-tfds`: a data set of any form as a TFDS data set."""

import argparse

from atss_jax.commands import command_line


def parser(program: str = 'atss prepare-tfds') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Converts a data set to one of TensorFlow Datasets. It is given by --data, or '
        'by a COCO file (--ann_file) and the folder of its images (--img_prefix).',
    )
    flags.add_argument('--data', type=command_line.path, help=command_line.DATA_HELP)
    flags.add_argument(
        '--data_split',
        help='split of --data that is read (default: that of --split; val for '
        'validation)',
    )
    flags.add_argument('--ann_file', type=command_line.path, help='annotations, JSON')
    flags.add_argument(
        '--img_prefix', type=command_line.path, help='folder of the images'
    )
    flags.add_argument(
        '--data_dir', type=command_line.path, required=True, help='folder of data sets'
    )
    flags.add_argument(
        '--name',
        default='coco/2017:1.1.0',
        help='name of the data set (default: coco/2017:1.1.0)',
    )
    flags.add_argument(
        '--split',
        default='train',
        help='split that is written: train, validation, ... (default: train)',
    )
    command_line.add_on_error_flag(flags)
    return flags


def main(arguments: list[str], program: str = 'atss prepare-tfds') -> int:
    """Prepares as the flags say; gives the exit status."""
    parse = parser(program)
    flags = parse.parse_args(arguments)
    _check_flags(parse, flags)

    def action():
        print(f'prepared split {flags.split} in {_prepare(flags)}')

    return command_line.guard(program, action, command_line.ON_ERROR)


def _check_flags(parse, flags):
    for name in ('ann_file', 'img_prefix'):
        is_given = getattr(flags, name) is not None
        if flags.data is None and not is_given:
            parse.error(f'--{name} is required, or --data in place of both')
        if flags.data is not None and is_given:
            parse.error(f'--{name} does not go with --data')
    if flags.data is None and flags.data_split is not None:
        parse.error('--data_split goes with --data')


def _prepare(flags):
    from atss_jax.data.tfds.prepare import Target, prepare, prepare_form

    if flags.data is not None:
        target = Target(flags.data_dir, flags.name, flags.split)
        return prepare_form(flags.data, flags.data_split, target, flags.on_error)
    return prepare(
        flags.ann_file,
        flags.img_prefix,
        flags.data_dir,
        flags.name,
        flags.split,
        flags.on_error,
    )
