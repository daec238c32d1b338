"""Programs as they are lowered, without the compiler for TPUs."""

import jax
import jax.numpy as jnp
import pytest

from atss_jax.compilation.programs import largest_canvas, lowered
from atss_jax.config import build_experiment, load_config
from atss_jax.distributed import devices
from tests.support.tpu import SMALL


@pytest.mark.parametrize('dtype', ['float32', 'bfloat16'])
def test_detection_computes_in_the_type_of_the_config(dtype):
    """`fp16` of the config is for training alone; what is returned is float32."""
    config = load_config('atss_r50_1x', {**SMALL, 'test_cfg.dtype': dtype})
    experiment = build_experiment(config)
    mesh = devices.device_mesh(jax.local_devices(backend='cpu')[:1])
    program = lowered(
        'detect', experiment, mesh, largest_canvas(experiment, 'detect'), 1
    )
    assert ('xbf16>' in program.as_text()) == (dtype == 'bfloat16')
    detections = program.out_info
    assert detections.boxes.dtype == detections.scores.dtype == jnp.float32
    assert experiment.model.dtype == 'float32'
