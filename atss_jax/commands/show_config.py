"""The flags of `python -m atss_jax show-config` and `flops`."""

import os
import sys

from atss_jax.commands import command_line


def add(commands) -> None:
    """Adds both to the subcommands."""
    _add_show_config(commands)
    _add_flops(commands)


def _add_show_config(commands):
    show = _add_over_config(
        commands,
        'show-config',
        'print a config with all its fields, and the number of parameters',
    )
    show.add_argument(
        '--reference',
        action='store_true',
        help='instead, a page of all fields: default, what is accepted, what it means',
    )
    show.set_defaults(run=_show_config)


def _add_over_config(commands, name, help_):
    """A command over a config, named as CONFIG or --config, whose fields can be set.

    CONFIG is no argument of argparse, which before Python 3.12 takes an optional one
    to be missing where a flag comes first.
    """
    command = commands.add_parser(
        name,
        help=help_,
        usage=f'python -m atss_jax {name} CONFIG [options] [--config.FIELD=VALUE ...]',
        description=f'{help_[0].upper()}{help_[1:]}.',
        epilog='CONFIG is a .py or .json file. Any config field is set by '
        '--config.FIELD=VALUE.',
        allow_abbrev=False,
    )
    command.add_argument('--config', help='the same as CONFIG')
    command.set_defaults(overrides=[])
    return command


def _load_config(flags):
    from atss_jax.config import load_config, parse_overrides

    options = [word for word in flags.overrides if word.startswith('-')]
    overrides = parse_overrides(options)
    named = [word for word in flags.overrides if word not in options]
    paths = [*named, *([] if flags.config is None else [flags.config])]
    if len(paths) != 1:
        given = ', '.join(paths) or 'none'
        raise ValueError(f'expected one CONFIG, a .py or .json file; given: {given}')
    return load_config(paths[0], overrides)


def _show_config(flags):
    from atss_jax.config import build_model, to_json
    from atss_jax.models.detector import parameter_count

    config = _load_config(flags)
    if flags.reference:
        from atss_jax.config.reference import reference

        _show(reference(config))
        return
    _show(f'{to_json(config)}\nparameters: {parameter_count(build_model(config)):,}')


def _show(text):
    """Prints to the end, or as far as the reader goes: `head` leaves early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        # Python would complain once more where it flushes at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _add_flops(commands):
    flops = _add_over_config(
        commands, 'flops', 'print parameters and multiply-adds by part and canvas'
    )
    flops.add_argument(
        '--canvas',
        type=command_line.canvas,
        action='append',
        metavar='HEIGHTxWIDTH',
        help='one or several times (default: 800x1280, and those that the config uses)',
    )
    flops.set_defaults(run=_flops)


def _flops(flags):
    from atss_jax.config import build_experiment
    from atss_jax.models import cost

    experiment = build_experiment(_load_config(flags))
    used = [data.pipeline.all_canvases() for data in experiment.data.values()]
    canvases = flags.canvas or [cost.CUSTOMARY, *(c for some in used for c in some)]
    found = cost.cost(experiment.model, list(dict.fromkeys(canvases)))
    _show(cost.format_cost(found))
