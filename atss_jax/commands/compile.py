"""`atss compile`: compiles a config's programs for TPUs, on a machine without one."""

import argparse
import pathlib
import sys

from atss_jax.commands import command_line
from atss_jax.commands.show_config import config_parser, load_named_config

_PROGRAMS = ('train', 'detect')
_DOES_NOT_FIT = 3  # the exit status


def parser(program: str = 'atss compile') -> argparse.ArgumentParser:
    """The flags of the command; CONFIG is taken from what they leave over."""
    flags = config_parser(
        program,
        'Compiles training and detection for TPUs, and says what they need there.\n'
        "Needs no TPU and no data, but pip install 'atss-jax[tpu]', and minutes.",
    )
    flags.add_argument(
        '--topology',
        required=True,
        metavar='CHIP:SHAPE',
        help="the slice, such as v5e:2x4, or several: 'v5e:4x4 x2'",
    )
    flags.add_argument(
        '--programs',
        type=_programs,
        default=_PROGRAMS,
        metavar='NAME,NAME',
        help='train, detect (default: both)',
    )
    flags.add_argument(
        '--canvas',
        type=command_line.canvas,
        metavar='HEIGHTxWIDTH',
        help='size of the images (default: the largest canvas of the config)',
    )
    flags.add_argument(
        '--largest',
        action='store_true',
        help='search the largest data.samples_per_gpu that fits, by compiling up to '
        'five times; without it only where that of the config does not fit',
    )
    flags.add_argument(
        '--json', type=command_line.path, help='also write all numbers to this file'
    )
    flags.add_argument(
        '--hlo',
        type=command_line.path,
        metavar='FOLDER',
        help='also write the compiled programs as text, for reading',
    )
    return flags


def main(arguments: list[str], program: str = 'atss compile') -> int:
    """Compiles and prints; exit status 3 if a batch of the config does not fit."""
    flags, others = parser(program).parse_known_args(arguments)

    def action():
        from atss_jax.compilation.describe import CAUTION, describe_search
        from atss_jax.compilation.topology import mesh_of, read_topology
        from atss_jax.config import build_experiment
        from atss_jax.files.atomic import check_writable, write_json

        experiment = build_experiment(load_named_config(flags.config, others))
        topology = read_topology(flags.topology)
        for folder in filter(None, (flags.hlo, flags.json and _parent(flags.json))):
            check_writable(folder)
        mesh = mesh_of(topology)
        results, fits = {}, True
        for name in flags.programs:
            search = _search(flags, name, experiment, topology, mesh)
            start = experiment.samples_per_gpu
            command_line.show(describe_search(name, start, search) + '\n')
            results[name] = search.to_json()
            if flags.json:  # after each: the next may take long
                write_json(flags.json, results, indent=1)
            fits &= search.largest is not None and search.largest.samples >= start
        command_line.show(CAUTION)
        return 0 if fits else _DOES_NOT_FIT

    return command_line.guard(program, action)


def _parent(path):
    return pathlib.Path(path).parent


def _search(flags, name, experiment, topology, mesh):
    from atss_jax.compilation.compiled import compile_program
    from atss_jax.compilation.search import largest_batch
    from atss_jax.files.atomic import write_text

    def compile_with(samples):
        print(f'compiling {name} with {samples} images per chip', file=sys.stderr)
        compiled = compile_program(
            name, experiment, topology, mesh, flags.canvas, samples
        )
        if flags.hlo:
            file = f'{name}_{samples}_{topology}.txt'.replace(':', '_')
            write_text(pathlib.Path(flags.hlo, file), compiled.text)
        return compiled

    return largest_batch(
        compile_with, topology.chip.available, experiment.samples_per_gpu, flags.largest
    )


def _programs(text):
    """Names of programs, for `type=` of a flag."""
    names = command_line.names(text)
    if unknown := [name for name in names if name not in _PROGRAMS]:
        raise argparse.ArgumentTypeError(f'{unknown[0]!r}: expected train or detect')
    return names
