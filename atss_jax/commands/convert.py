"""`atss convert`: weights between .pth, .safetensors and workdirs."""

import argparse

from atss_jax.commands import command_line


def parser(program: str = 'atss convert') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(
        program,
        'Converts weights between .pth, .safetensors and workdirs.',
        'A name that ends in .pth, .pt or .safetensors is a file of weights with\n'
        "mmdetection's names; any other is a workdir. IN may also be mmdet://NAME (a\n"
        'name that `atss models` lists), or an https:// or hf:// address of a file.',
    )
    flags.add_argument(
        'source',
        type=command_line.path,
        metavar='IN',
        help='file of weights, or workdir',
    )
    flags.add_argument(
        'target',
        type=command_line.path,
        metavar='OUT',
        help='file to write, or new workdir',
    )
    flags.add_argument(
        '--config',
        type=command_line.path,
        help='config of the model, if OUT is a workdir',
    )
    flags.add_argument(
        '--step', type=int, help='a checkpoint of a workdir (default: the best)'
    )
    add_weight_flags(flags)
    return flags


def add_weight_flags(flags: argparse.ArgumentParser) -> None:
    """Adds the flags that choose among the weights of a checkpoint."""
    flags.add_argument(
        '--momentum',
        action='store_true',
        help='also convert what training needs to resume: momentum, step, moving '
        'average',
    )
    flags.add_argument(
        '--unaveraged',
        action='store_true',
        help='take the weights under training, not their moving average (EMA)',
    )


def main(arguments: list[str], program: str = 'atss convert') -> int:
    """Converts as the flags say; gives the exit status."""
    flags = parser(program).parse_args(arguments)

    def action():
        from atss_jax.training.convert import Options, convert

        options = Options(flags.step, flags.momentum, flags.unaveraged)
        print(convert(flags.source, flags.target, flags.config, options))

    return command_line.guard(program, action)
