"""`atss prepare-tfds`: a COCO file and its images as a TFDS data set."""

import argparse

from atss_jax.commands import command_line


def parser(program: str = 'atss prepare-tfds') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Converts a COCO file and its images to a data set of TensorFlow Datasets.',
    )
    flags.add_argument(
        '--ann_file', type=command_line.path, required=True, help='annotations, JSON'
    )
    flags.add_argument(
        '--img_prefix',
        type=command_line.path,
        required=True,
        help='folder of the images',
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
        '--split', default='train', help='train, validation, ... (default: train)'
    )
    flags.add_argument(
        '--on_error',
        default='raise',
        choices=('raise', 'skip'),
        help='skip: malformed records are left out and counted (default: raise)',
    )
    return flags


def main(arguments: list[str], program: str = 'atss prepare-tfds') -> int:
    """Prepares as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        from atss_jax.data.tfds.prepare import prepare

        folder = prepare(
            flags.ann_file,
            flags.img_prefix,
            flags.data_dir,
            flags.name,
            flags.split,
            flags.on_error,
        )
        print(f'prepared split {flags.split} in {folder}')

    return command_line.guard(program, action)
