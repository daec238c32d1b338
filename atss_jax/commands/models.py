"""`atss models`: the trained detectors that can be used by name."""

import argparse
import os

from atss_jax.commands import command_line
from atss_jax.files.download import cache_folder, remote_size
from atss_jax.weights import model_zoo

_TITLES = (
    *('name', 'config', 'parameters', 'multiply-adds', 'published AP', 'download'),
    'in the cache',
)


def parser(program: str = 'atss models') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Lists the trained detectors that can be used by name: as --model=NAME, as\n'
        '--config.load_from=mmdet://NAME, and as Detector.load(NAME).',
        'Multiply-adds are those of one image of 800x1280, as `atss flops` counts\n'
        f'them. More models are read from the JSON files in\n'
        f'${model_zoo.FILES_VARIABLE}. See docs/models.md.',
    )
    flags.add_argument(
        '--sizes',
        action='store_true',
        help='ask the servers for the sizes of files that are not in the cache',
    )
    return flags


def main(arguments: list[str], program: str = 'atss models') -> int:
    """Lists the models; gives the exit status."""
    flags = parser(program).parse_args(arguments)
    evaluate = command_line.other_command('eval')

    def action():
        command_line.show(describe(model_zoo.models(), flags.sizes, evaluate))

    return command_line.guard(program, action)


def describe(
    models: dict[str, model_zoo.Model], ask_servers: bool, evaluate: str
) -> str:
    """A table of the models, and what its numbers mean.

    Args:
        models: by name.
        ask_servers: whether to ask for the sizes of files that are not in the cache.
        evaluate: how the user calls `atss eval`.
    """
    rows = [_TITLES, *(_row(model, ask_servers) for model in models.values())]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        '  '.join(
            cell.rjust(width) if 2 <= index <= 5 else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
    sources = {
        (model.ap_by, model.source): None
        for model in models.values()
        if model.ap_by and model.source
    }
    return '\n'.join(
        [
            *lines,
            '',
            'AP is on COCO val2017 at one scale, as published, not measured here:',
            *(f'  {by}: {page}' for by, page in sources),
            f'To measure it, with COCO in data/coco: {evaluate} --model=NAME',
            f'The cache is {cache_folder()}',
        ]
    )


def _row(model, ask_servers):
    has_file = model.path.is_file()
    size = os.path.getsize(model.path) if has_file else model.size
    if size is None and ask_servers:
        size = remote_size(model.addresses)
    return (
        model.name,
        model.config,
        _short(model.parameters, 1e6, 'M'),
        _short(model.multiply_adds, 1e9, 'G'),
        '' if model.ap is None else f'{model.ap} {model.ap_by or ""}'.rstrip(),
        _short(size, 1e6, 'MB'),
        'yes' if has_file else 'no',
    )


def _short(count, unit, letters):
    return '?' if count is None else f'{count / unit:.1f} {letters}'
