"""Configs for tests: the R50 recipe, changed field by field."""

import copy

import pytest

from atss_jax.config import as_dict, build_experiment, load_config
from atss_jax.config.tree import flatten
from tests.conftest import ROOT

CONFIGS = sorted(str(p) for p in (ROOT / 'configs').glob('*.py') if p.stem[0] != '_')
R50 = str(ROOT / 'configs' / 'atss_r50_1x.py')
BASE = as_dict(load_config(R50))
LEAVES = flatten(BASE)
DCN = {'type': 'DCNv2', 'deform_groups': 1, 'fallback_on_stride': False}
DYHEAD = {
    'type': 'DyHead',
    'in_channels': 256,
    'out_channels': 256,
    'num_blocks': 6,
    'zero_init_offset': True,
}
RESNEXT = {
    'model.backbone.type': 'ResNeXt',
    'model.backbone.groups': 32,
    'model.backbone.base_width': 8,
}
DEFORMABLE = {
    'model.backbone.dcn': DCN,
    'model.backbone.stage_with_dcn': (False, False, True, True),
}


def changed(values, remove=()):
    """The R50 config with some leaves set to other values, or removed."""
    config = copy.deepcopy(BASE)
    for path, value in values.items():
        *parents, name = path.split('.')
        section = config
        for parent in parents:
            section = section.setdefault(parent, {})
        section[name] = copy.deepcopy(value)
    for path in remove:
        *parents, name = path.split('.')
        section = config
        for parent in parents:
            section = section[parent]
        del section[name]
    return config


def error(values, remove=()):
    """The message of the error that such a config raises."""
    with pytest.raises(ValueError) as caught:
        build_experiment(changed(values, remove))
    return str(caught.value)
