"""What XLA makes for a GPU, read from a short program, without the compiler."""

import importlib.util
import subprocess
import sys

import pytest

from benchmarks import gpu_compile
from tests.conftest import ROOT

# Shortened from what XLA writes for an H200. A map has 16 x 100 x 100 x 64 numbers in
# two bytes, 20.48 MB. The last kernel replaces one row of each image where it lies.
TEXT = """\
HloModule jit_step, is_scheduled=true

%relu (x: bf16[16,100,100,64]) -> bf16[16,100,100,64] {
  %x.1 = bf16[16,100,100,64]{3,2,1,0} parameter(0)
  ROOT %y = bf16[16,100,100,64]{3,2,1,0} negate(%x.1)
}

%row (x: bf16[16,100,100,64], i: s32[16,1]) -> bf16[16,100,100,64] {
  %x.2 = bf16[16,100,100,64]{3,2,1,0} parameter(0)
  %i.2 = s32[16,1]{1,0} parameter(1)
  %zeros = bf16[16,100,64]{2,1,0} constant({...})
  ROOT %s = bf16[16,100,100,64]{3,2,1,0} scatter(%x.2, %i.2, %zeros), to_apply=%second
}

ENTRY %main (x: bf16[16,100,100,64], k: bf16[64,3,3,64], i: s32[16,1]) -> \
bf16[16,100,100,64] {
  %x = bf16[16,100,100,64]{3,2,1,0} parameter(0)
  %k = bf16[64,3,3,64]{3,2,1,0} parameter(1)
  %i = s32[16,1]{1,0} parameter(2)
  %conv = (bf16[16,100,100,64]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), \
custom_call_target="__cudnn$convForward", \
metadata={op_name="jit(step)/jvp(ATSS)/backbone/layer1_0/conv1/conv"}
  %y.1 = bf16[16,100,100,64]{3,2,1,0} get-tuple-element(%conv), index=0
  %pass = bf16[16,100,100,64]{3,2,1,0} fusion(%y.1), kind=kLoop, calls=%relu, \
metadata={op_name="jit(step)/transpose(jvp(ATSS))/bbox_head/cls_convs_0/gn/mul"}
  ROOT %out = bf16[16,100,100,64]{3,2,1,0} fusion(%pass, %i), kind=kInput, \
calls=%row, metadata={op_name="jit(step)/jvp(ATSS)/backbone/layer1_0/scatter"}
}
"""


def test_the_tables():
    text = gpu_compile.report(TEXT)
    assert '| convolutions and products | 1 | 0.04 |' in text
    assert '| passes | 1 | 0.04 |' in text
    assert '| small passes | 1 | 0.00 |' in text
    assert '| all | 3 | 0.08 |' in text
    assert '| bbox_head (backward) | 0.04 |' in text


@pytest.mark.skipif(
    any(map(importlib.util.find_spec, ('jax_cuda12_plugin', 'jax_cuda13_plugin'))),
    reason="JAX's plugin for CUDA is installed",
)
def test_without_the_plugin():
    script = ROOT / 'benchmarks' / 'gpu_compile.py'
    done = subprocess.run([sys.executable, script], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("pip install 'atss-jax[cuda]'")
