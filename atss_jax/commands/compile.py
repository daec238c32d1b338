"""`atss compile`: what a config's programs need on TPUs, on a machine without one."""

import argparse
import pathlib
import sys

from atss_jax.commands import command_line
from atss_jax.commands.show_config import config_parser, load_named_config

_PROGRAMS = ('train', 'detect')
DOES_NOT_FIT = 3  # the exit status


def parser(program: str = 'atss compile') -> argparse.ArgumentParser:
    """The flags of the command; CONFIG is taken from what they leave over."""
    flags = config_parser(
        program,
        'Plans training and detection for TPUs, and says what they need there.\n'
        "Needs no TPU and no data, but pip install 'atss-jax[tpu]'.",
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
    _add_search_flags(flags)
    flags.add_argument(
        '--json', type=command_line.path, help='also write all numbers to this file'
    )
    flags.add_argument(
        '--hlo',
        type=command_line.path,
        metavar='FOLDER',
        help='also write the programs as text, for reading',
    )
    return flags


def _add_search_flags(flags):
    flags.add_argument(
        '--largest',
        action='store_true',
        help='search the largest data.samples_per_gpu that fits, by planning up to '
        'eight times; without it only where that of the config does not fit',
    )
    flags.add_argument(
        '--step',
        type=command_line.positive,
        default=1,
        metavar='N',
        help='of that search: from N images on only multiples of N (default: 1)',
    )
    flags.add_argument(
        '--code',
        action='store_true',
        help='also generate the machine code, which takes minutes to an hour: its '
        "size, and the compiler's estimate of time",
    )


def main(arguments: list[str], program: str = 'atss compile') -> int:
    """Plans and prints; exit status 3 if a batch of the config does not fit."""
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
        mesh_of(topology)  # refuses what cannot be before anything else is done
        results, fits = {}, True
        for name in flags.programs:
            search = _search(flags, name, experiment, topology)
            start = experiment.samples_per_gpu
            command_line.show(describe_search(name, start, search) + '\n')
            results[name] = search.to_json()
            if flags.json:  # after each: the next may take long
                write_json(flags.json, results, indent=1)
            fits &= search.largest is not None and search.largest.samples >= start
        command_line.show(CAUTION)
        return 0 if fits else DOES_NOT_FIT

    return command_line.guard(program, action)


def _parent(path):
    return pathlib.Path(path).parent


def _search(flags, name, experiment, topology):
    from atss_jax.compilation.planned import CODE_PER_INSTRUCTION, plan_program
    from atss_jax.compilation.search import largest_batch
    from atss_jax.files.atomic import write_text

    # With --code no estimate of it decides: the compiler does, in the end.
    code = 0 if flags.code else CODE_PER_INSTRUCTION

    def plan_with(samples):
        print(f'planning {name} with {samples} images per chip', file=sys.stderr)
        return plan_program(name, experiment, topology, flags.canvas, samples, code)

    available, start = topology.chip.available, experiment.samples_per_gpu
    search = largest_batch(plan_with, available, start, flags.largest, flags.step)
    if flags.code:
        search = _compiled(flags, name, experiment, topology, search)
    if flags.hlo and search.largest is not None:
        file = f'{name}_{search.largest.samples}_{topology}.txt'.replace(':', '_')
        write_text(pathlib.Path(flags.hlo, file), search.largest.text)
    return search


def _compiled(flags, name, experiment, topology, search):
    """The same search with the largest batch compiled to its end.

    If that one does not fit together with its code, those below are tried in turn.
    """
    from atss_jax.compilation.compiled import OutOfMemory, compile_program
    from atss_jax.compilation.search import before

    samples = 0 if search.largest is None else search.largest.samples
    while samples > 0:
        print(f'compiling {name} with {samples} images per chip', file=sys.stderr)
        try:
            largest = compile_program(name, experiment, topology, flags.canvas, samples)
        except OutOfMemory as error:
            tried = {**search.tried, samples: error.needed}
            search = search._replace(largest=None, tried=tried, too_many=samples)
            samples = before(samples, flags.step)
        else:
            tried = {**search.tried, samples: largest.memory.total}
            return search._replace(largest=largest, tried=tried)
    return search


def _programs(text):
    """Names of programs, for `type=` of a flag."""
    names = command_line.names(text)
    if unknown := [name for name in names if name not in _PROGRAMS]:
        raise argparse.ArgumentTypeError(f'{unknown[0]!r}: expected train or detect')
    return names
