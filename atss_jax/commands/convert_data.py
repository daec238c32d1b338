"""`atss convert-data`: a data set of any form as a COCO file."""

import argparse
import shlex

from atss_jax.commands import command_line

_USAGE = """
For example:
  atss convert-data my_folder train.json --split=train
Without --images no image is copied: the file names lead from the folder of OUT.json to
the images where they lie. The command prints the --img_prefix to use.
"""


def parser(program: str = 'atss convert-data') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program, 'Writes a data set of any form as a COCO file.', _USAGE
    )
    flags.add_argument(
        'data', type=command_line.path, metavar='IN', help=command_line.DATA_HELP
    )
    flags.add_argument(
        'ann_file', type=command_line.path, metavar='OUT.json', help='file to write'
    )
    flags.add_argument(
        '--split', help='the one to write, such as train (default: the only one)'
    )
    flags.add_argument(
        '--images',
        type=command_line.path,
        metavar='FOLDER',
        help='also write the images to this folder, unchanged; needed where they are '
        'not files, as in Parquet',
    )
    command_line.add_on_error_flag(flags)
    flags.add_argument(
        '--overwrite', action='store_true', help='replace files that exist'
    )
    return flags


def main(arguments: list[str], program: str = 'atss convert-data') -> int:
    """Converts as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        from atss_jax.data.forms.to_coco import write_coco

        conversion = write_coco(
            flags.data,
            flags.ann_file,
            flags.split,
            flags.images,
            flags.on_error,
            flags.overwrite,
        )
        nouns = ('image', 'annotation', 'class')
        counts = ', '.join(map(_counted, conversion.counts, nouns))
        print(f'{conversion.source}\nsplit {conversion.split}: {counts}')
        ann_file, img_prefix = map(
            shlex.quote, (conversion.ann_file, conversion.img_prefix)
        )
        print(f'--ann_file={ann_file} --img_prefix={img_prefix}')

    return command_line.guard(program, action, command_line.ON_ERROR)


def _counted(count, noun):
    if noun == 'class' and count != 1:
        return f'{count} classes'
    return command_line.counted(count, noun)
