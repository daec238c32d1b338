"""`atss flops`: parameters and multiply-adds of a detector, by part and canvas."""

import argparse

from atss_jax.commands import command_line
from atss_jax.commands.show_config import config_parser, load_named_config


def parser(program: str = 'atss flops') -> argparse.ArgumentParser:
    """The flags of the command; CONFIG is taken from what they leave over."""
    flags = config_parser(
        program, 'Prints parameters and multiply-adds by part and canvas.'
    )
    flags.add_argument(
        '--canvas',
        type=command_line.canvas,
        action='append',
        metavar='HEIGHTxWIDTH',
        help='may be repeated (default: 800x1280, padded as the config says, and those '
        'that the config uses)',
    )
    return flags


def main(arguments: list[str], program: str = 'atss flops') -> int:
    """Counts and prints; gives the exit status."""
    flags, others = parser(program).parse_known_args(arguments)

    def action():
        from atss_jax.config import build_experiment
        from atss_jax.data.plan import round_up
        from atss_jax.models import cost

        experiment = build_experiment(load_named_config(flags.config, others))
        divisor = experiment.model.size_divisor
        customary = tuple(round_up(side, divisor) for side in cost.CUSTOMARY)
        canvases = flags.canvas or [customary]
        if not flags.canvas:
            for data in experiment.data.values():
                canvases += data.pipeline.all_canvases()
        counted = cost.cost(experiment.model, list(dict.fromkeys(canvases)))
        command_line.show(cost.format_cost(counted))

    return command_line.guard(program, action)
