"""The programs of all shipped configs, narrow, as the compiler for TPUs plans them."""

import pathlib
import sys

import pytest

from atss_jax.compilation.planned import plan_program
from atss_jax.compilation.programs import PROGRAMS
from atss_jax.compilation.topology import read_topology
from atss_jax.config import as_dict, build_experiment, load_config
from tests.conftest import ROOT
from tests.support.configs import CONFIGS

sys.path.insert(0, str(ROOT / 'benchmarks'))

import tpu_compile

pytestmark = pytest.mark.tpu
pytest.importorskip('libtpu', reason='make test-tpu installs it')

NAMES = [pathlib.Path(path).stem for path in CONFIGS]
# Of configs with the same program the first.
DISTINCT = [
    (configs[0], program)
    for program in PROGRAMS
    for configs in tpu_compile.groups(NAMES, program)
]
WIDTH = 64
CANVAS = (128, 128)


def narrow(name):
    """A config with few channels after the backbone, and one of its equal blocks."""
    model = as_dict(load_config(name))['model']
    neck, head = model['neck'], model['bbox_head']
    changes = {
        'model.pretrained': None,
        'model.bbox_head.in_channels': WIDTH,
        'model.bbox_head.feat_channels': WIDTH,
        'model.bbox_head.stacked_convs': min(head['stacked_convs'], 1),
    }
    if isinstance(neck, dict):
        changes['model.neck.out_channels'] = WIDTH
    else:
        pyramid, blocks = neck
        changes['model.neck'] = [
            pyramid | {'out_channels': WIDTH},
            blocks | {'in_channels': WIDTH, 'out_channels': WIDTH, 'num_blocks': 1},
        ]
    return build_experiment(load_config(name, changes))


@pytest.mark.parametrize(('name', 'program'), DISTINCT)
def test_it_is_planned(name, program):
    topology = read_topology('v5e:2x2')
    planned = plan_program(program, narrow(name), topology, CANVAS, samples=1)
    assert not planned.has_code and planned.traffic.instructions > 1000
    assert len(planned.traffic.all_reduces) >= (2 if program == 'train' else 0)
    modules = planned.traffic.by_module()
    assert any(module.startswith('bbox_head') for module in modules)
    assert ('optim/optimizer.py' in modules) == (program == 'train')
    # NMS ends when nothing is left; all other loops run as often as the text says.
    assert planned.traffic.unknown_loops == (program == 'detect')
