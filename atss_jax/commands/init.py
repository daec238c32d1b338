"""`atss init`: writes a config that fits a data set, without training."""

import argparse
import os
import shlex
import textwrap

from atss_jax.commands import command_line

_USAGE = f"""
The objects of the training images are assigned to anchors of several sizes, which takes
a fraction of a millisecond per image, and what fits best is written with its reasons.
{command_line.EXIT_STATUS}
"""


def parser(program: str = 'atss init') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program, 'Writes a config that fits your data, without training.', _USAGE
    )
    flags.add_argument(
        'data',
        type=command_line.path,
        help='folder of the data (COCO, YOLO, Pascal VOC, Hugging Face), an annotation '
        'file, or hf://OWNER/NAME',
    )
    flags.add_argument(
        '--out',
        type=command_line.path,
        default='config.py',
        help='the file to write (default: config.py)',
    )
    flags.add_argument(
        '--start',
        choices=('zoo', 'imagenet', 'scratch'),
        default='zoo',
        help='what training starts from: a detector trained on COCO, a backbone '
        'trained on ImageNet, or random weights (default: zoo)',
    )
    flags.add_argument(
        '--depth',
        type=int,
        choices=(18, 34, 50, 101),
        default=50,
        help='number of layers of the ResNet (default: 50)',
    )
    _add_choices(flags)
    return flags


def _add_choices(flags):
    """Adds the flags for what is chosen unless it is given."""
    flags.add_argument(
        '--img_scale',
        type=command_line.scale,
        metavar='LONGxSHORT',
        help='size that images are fitted into (default: it is chosen)',
    )
    flags.add_argument(
        '--batch',
        type=command_line.positive,
        help='images per device and step (default: by the memory of this machine)',
    )
    flags.add_argument(
        '--epochs',
        type=command_line.positive,
        help='passes over the training images (default: by their number)',
    )
    flags.add_argument(
        '--images',
        type=command_line.positive,
        default=200,
        help='number of training images whose objects are tried (default: 200)',
    )
    command_line.add_on_error_flag(flags)


def main(arguments: list[str], program: str = 'atss init') -> int:
    """Writes the config as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        from atss_jax.config import load_config
        from atss_jax.files.atomic import check_file_writable, write_text
        from atss_jax.tuning import tables
        from atss_jax.tuning.config_file import config_text
        from atss_jax.tuning.from_data import Wishes, prepare, this_device

        if not flags.out.endswith('.py'):
            raise ValueError(f'--out {flags.out}: expected the name of a .py file')
        if os.path.lexists(flags.out):
            raise ValueError(f'{flags.out} already exists; give another --out')
        check_file_writable(flags.out)
        wishes = Wishes(
            start=flags.start,
            depth=flags.depth,
            img_scale=flags.img_scale,
            batch=flags.batch,
            epochs=flags.epochs,
            images=flags.images,
            on_error=flags.on_error,
        )
        prepared = prepare(flags.data, wishes, this_device())
        print(_wrapped(f'{flags.data}: {prepared.description}'), end='\n\n')
        print(f'{tables.trials(prepared)}\n\n{tables.sizes(prepared)}\n')
        command = *program.split(), *arguments
        write_text(flags.out, config_text(prepared, command, flags.out))
        load_config(flags.out)
        train = command_line.other_command('train')
        config = shlex.quote(f'--config={flags.out}')
        print(f'wrote {flags.out}; to train: {train} {config} --workdir=W')

    return command_line.guard(program, action, command_line.ON_ERROR)


def _wrapped(text):
    """Text in lines for the terminal; words, such as paths, stay whole."""
    return textwrap.fill(
        text,
        80,
        subsequent_indent='    ',
        break_long_words=False,
        break_on_hyphens=False,
    )
