"""Loads configs, checks every field, and builds what they describe."""

from atss_jax.config.load import (
    as_dict,
    build_experiment,
    build_model,
    check_section,
    load_config,
    parse_overrides,
    shipped_configs,
    to_json,
)

__all__ = [
    'as_dict',
    'build_experiment',
    'build_model',
    'check_section',
    'load_config',
    'parse_overrides',
    'shipped_configs',
    'to_json',
]
