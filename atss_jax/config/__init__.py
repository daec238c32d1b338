"""Configs: loaded, checked field by field, and built into the parts they describe."""

from atss_jax.config.load import (
    as_dict,
    build_experiment,
    build_model,
    load_config,
    parse_overrides,
    to_json,
)

__all__ = [
    'as_dict',
    'build_experiment',
    'build_model',
    'load_config',
    'parse_overrides',
    'to_json',
]
