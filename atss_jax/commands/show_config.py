"""`atss show-config`: a config with all its fields."""

import argparse
from typing import Any

from atss_jax.commands import command_line


def parser(program: str = 'atss show-config') -> argparse.ArgumentParser:
    """The flags of the command; CONFIG is taken from what they leave over."""
    flags = config_parser(
        program, 'Prints a config with all its fields, and the number of parameters.'
    )
    flags.add_argument(
        '--reference',
        action='store_true',
        help='instead, print a page of all fields: default, accepted values, meaning',
    )
    return flags


def main(arguments: list[str], program: str = 'atss show-config') -> int:
    """Prints what the flags say; gives the exit status."""
    flags, others = parser(program).parse_known_args(arguments)

    def action():
        from atss_jax.config import build_model, to_json
        from atss_jax.models.detector import parameter_count

        config = load_named_config(flags.config, others)
        if flags.reference:
            from atss_jax.config.reference import reference

            command_line.show(reference(config))
            return
        count = parameter_count(build_model(config))
        command_line.show(f'{to_json(config)}\nparameters: {count:,}')

    return command_line.guard(program, action)


def config_parser(program: str, description: str) -> argparse.ArgumentParser:
    """A parser for a command over one config, given as CONFIG or as --config.

    CONFIG is no argument of argparse, which before Python 3.12 believes an optional
    one to be missing where a flag comes first.
    """
    flags = command_line.new_parser(
        program,
        description,
        f'CONFIG is {command_line.CONFIG_HELP}.\n{command_line.FIELDS_HELP}',
        usage=f'{program} CONFIG [flags] [--config.FIELD=VALUE ...]',
    )
    flags.add_argument('--config', type=command_line.path, help='the same as CONFIG')
    return flags


def load_named_config(config: str | None, others: list[str]) -> Any:
    """The config that a command line names.

    Args:
        config: the value of --config.
        others: arguments that the parser left over: CONFIG and field overrides.

    Raises:
        ValueError: no config is named, or several are; or what `load_config` refuses.
    """
    from atss_jax.config import load_config, parse_overrides

    options = [word for word in others if word.startswith('-')]
    overrides = parse_overrides(options)
    names = [word for word in others if word not in options]
    names += [] if config is None else [config]
    if len(names) != 1:
        given = ', '.join(names) or 'none'
        raise ValueError(
            f'expected one CONFIG, {command_line.CONFIG_HELP}; given: {given}'
        )
    return load_config(names[0], overrides)
