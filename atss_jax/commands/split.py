"""`atss split`: divides a data set of any form into train, val and test."""

import argparse
import shlex

from atss_jax.commands import command_line


def parser(program: str = 'atss split') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Divides a data set into train, val and test, with a COCO file for each.\n'
        'Equal images stay together, and each split has its share of each class.',
    )
    flags.add_argument(
        'data',
        type=command_line.path,
        metavar='DATA',
        help='folder, annotation file or address of the data set',
    )
    flags.add_argument(
        '--out',
        type=command_line.path,
        required=True,
        metavar='FOLDER',
        help='new folder; `atss train --data FOLDER` trains on it',
    )
    flags.add_argument(
        '--val', type=command_line.score, default=0.2, help='share (default: 0.2)'
    )
    flags.add_argument(
        '--test', type=command_line.score, default=0, help='share (default: 0)'
    )
    flags.add_argument(
        '--seed', type=int, default=0, help='another one divides otherwise (default: 0)'
    )
    flags.add_argument(
        '--group_by',
        metavar='REGEX',
        help='images stay together if the first group that it captures in their file '
        "names, folders included, is equal: '(.+)_frame' for frames of videos",
    )
    _add_splits_flags(flags)
    flags.add_argument(
        '--copy', action='store_true', help='copy the images to FOLDER/images'
    )
    command_line.add_on_error_flag(flags)
    return flags


def _add_splits_flags(flags):
    """Adds the flags for data that are divided already."""
    flags.add_argument(
        '--split',
        metavar='NAME',
        help='divide only this split of the data set, and keep the others as they are: '
        '--split train where there are train and test',
    )
    flags.add_argument(
        '--join',
        action='store_true',
        help='pool the splits that the data set has, and divide it anew',
    )


def main(arguments: list[str], program: str = 'atss split') -> int:
    """Divides as the flags say, prints the counts; gives the exit status."""
    parse = parser(program)
    flags = parse.parse_args(arguments)
    if flags.val + flags.test >= 1 or flags.val + flags.test <= 0:
        parse.error('--val and --test must leave images for train and take some')
    if flags.seed < 0:
        parse.error('--seed: expected 0 or more')
    if flags.join and flags.split:
        parse.error('--join divides all splits, and --split one: give one of them')
    return command_line.guard(program, lambda: _split(flags), command_line.ON_ERROR)


def _split(flags):
    from atss_jax.data.division.divide import check_empty, divide, write_division
    from atss_jax.data.forms.dataset import FLAG, check_split
    from atss_jax.data.forms.find import describe, find
    from atss_jax.files.atomic import check_writable

    form = find(flags.data)
    print(describe(form), flush=True)
    if flags.split:
        check_split(form, flags.split, FLAG)
    elif len(form.splits) > 1 and not flags.join:
        raise ValueError(
            f'{flags.data} is divided already: {", ".join(form.splits)}. To pool these '
            'and divide it anew: --join. To divide one of them and keep the others: '
            f'--split={_usual_split(form)}'
        )
    check_empty(flags.out)
    check_writable(flags.out)
    shares = {
        'train': 1 - flags.val - flags.test,
        'val': flags.val,
        'test': flags.test,
    }
    division = divide(
        form, shares, flags.seed, flags.group_by, flags.on_error, flags.split
    )
    write_division(division, form, flags.out, flags.copy)
    command_line.show(text(division))
    train = f'atss train --data {shlex.quote(flags.out)} --workdir W'
    print(f'wrote {flags.out}/annotations; to train on it: {train}')


def _usual_split(form):
    from atss_jax.data.division.advice import split_to_divide

    return split_to_divide(form) or next(iter(form.splits))


def text(division) -> str:
    """Counts by class and split, and what to know about them."""
    rows = [('', *division.names)]
    totals = [int((division.split_of == i).sum()) for i in range(len(division.names))]
    rows.append(('images', *map(str, totals)))
    for label, name in enumerate(division.classes):
        counts = division.counts[:, label]
        total = max(counts.sum(), 1)
        rows.append((name, *(f'{n} ({n / total:.0%})' for n in counts.tolist())))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(
            [row[0].ljust(widths[0])]
            + [
                cell.rjust(width)
                for cell, width in zip(row[1:], widths[1:], strict=True)
            ]
        )
        for row in rows
    ]
    copies = len(division.split_of) - division.num_groups
    if copies:
        images, groups = len(division.split_of), division.num_groups
        lines.append(f'{images} images in {groups} groups that stay together')
    for split, table in division.kept.items():
        images = command_line.counted(len(table.image_ids), 'image')
        lines.append(f'{split} is kept as it is: {images}')
    return '\n'.join(lines + [f'warning: {line}' for line in division.remarks()])
