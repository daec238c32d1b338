"""`atss train`: trains a detector from a config."""

import argparse
import time

from atss_jax.commands import command_line, foreign_flags

_BEGAN = time.perf_counter()
_USAGE = f"""
{command_line.FIELDS_HELP} For example:
  --config.optimizer.lr=0.005 --config.data.train.pipeline.img_scale="(1000, 600)"
Run again with the same workdir, a stopped run resumes where it was.
{command_line.EXIT_STATUS}
"""


def parser(program: str = 'atss train') -> argparse.ArgumentParser:
    """The flags of the command."""
    flags = command_line.new_parser(program, 'Trains a detector.', _USAGE)
    flags.add_argument(
        '--config', type=command_line.path, required=True, help=command_line.CONFIG_HELP
    )
    flags.add_argument(
        '--data',
        type=command_line.path,
        help=f'your own data in place of those of the config: {command_line.DATA_HELP}',
    )
    flags.add_argument(
        '--workdir', type=command_line.path, required=True, help='folder of the run'
    )
    flags.add_argument(
        '--profile',
        type=command_line.step_range,
        metavar='FIRST:LAST',
        help='steps, counted from 1, to trace with the profiler into WORKDIR/profile',
    )
    command_line.add_cache_flag(flags)
    command_line.add_host_flags(flags)
    return flags


def main(arguments: list[str], program: str = 'atss train') -> int:
    """Trains as the flags say; gives the exit status."""
    parse = parser(program)
    flags, overrides = parse.parse_known_args(arguments)
    foreign_flags.check(parse, 'train', overrides)
    command_line.use_cache(flags)

    def action():
        from atss_jax.config import load_config, parse_overrides
        from atss_jax.distributed import devices
        from atss_jax.evaluation.run import make_evaluator
        from atss_jax.training.loop import train

        config = load_config(flags.config, parse_overrides(overrides), flags.data)
        train(config, flags.workdir, make_evaluator, flags.profile, began=_BEGAN)
        if devices.is_first():
            evaluate = command_line.other_command('eval')
            print(f'done; to evaluate: {evaluate} --workdir={flags.workdir}')

    return command_line.run(flags, program, action)
