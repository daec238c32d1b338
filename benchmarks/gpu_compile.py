"""What XLA makes of training and detection for an H200, seen without a GPU.

    pip install 'atss-jax[cuda]'
    python benchmarks/gpu_compile.py

XLA compiles for a GPU that it only has a description of. Printed are its kernels and
the bytes that they read and write, those of convolutions apart from the passes over
maps between them, and the parts of the detector whose passes move most. Neither times
nor cuDNN's algorithms are known without the GPU: `gpu_everything.py` measures them.
"""

import argparse
import collections
import os
import pathlib
import sys

import jax
import numpy as np
from jax.experimental import topologies

ROOT = pathlib.Path(__file__).resolve().parent.parent
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))  # for a script, only its own folder is there

from atss_jax.compilation import hlo  # noqa: E402
from atss_jax.compilation.programs import PROGRAMS, lowered  # noqa: E402
from atss_jax.compilation.traffic import traffic  # noqa: E402
from atss_jax.config import build_experiment, load_config  # noqa: E402
from atss_jax.structures import BATCH_AXIS  # noqa: E402
from benchmarks.timing import table  # noqa: E402

# By NVIDIA's data sheet of the H200 and its tuning guide for Hopper.
H200 = """
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32
  shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 10 }
runtime_version { major: 13 minor: 0 patch: 0 }
device_description_str: "NVIDIA H200"
"""
# JAX and XLA read these when they are first used. Without a GPU there is no driver to
# check the versions of, and nothing to try kernels on.
ENVIRONMENT = {
    'JAX_SKIP_CUDA_CONSTRAINTS_CHECK': '1',
    'CUDA_VISIBLE_DEVICES': '-1',
}
NO_TRIALS = '--xla_gpu_autotune_level=0'
HALF = {'fp16': {'loss_scale': 'dynamic'}, 'test_cfg.dtype': 'bfloat16'}
CANVAS = 800, 1344
PRODUCTS = 'convolutions and products'
_TARGETS = '__cudnn$', '__cublas', '__triton_gemm', '__triton_nested_gemm'
SMALL = 8 * 10**6  # bytes; a kernel that moves fewer is over before it is at speed


def compiled(config: str, program: str, samples: int) -> str:
    """The program of a config for one H200, as XLA writes it.

    Raises:
        SystemExit: JAX's plugin for CUDA is not installed.
    """
    try:
        gpu = topologies.get_topology_desc(
            '', 'cuda', target_config=H200, topology='1x1x1'
        )
    except NotImplementedError:  # by JAX, of a platform that it has no plugin for
        raise SystemExit(
            "JAX's plugin for CUDA is missing: pip install 'atss-jax[cuda]'"
        ) from None
    mesh = jax.sharding.Mesh(np.array(gpu.devices), (BATCH_AXIS,))
    experiment = build_experiment(load_config(config, HALF))
    return lowered(program, experiment, mesh, CANVAS, samples).compile().as_text()


def kind(moved) -> str:
    """What a kernel is: a convolution, or a pass, large or small."""
    if any(x in moved.instruction.attributes for x in _TARGETS):
        return PRODUCTS
    return 'small passes' if moved.size < SMALL else 'passes'


def report(text: str) -> str:
    """Tables of a program's kernels."""
    kernels = traffic(hlo.parse(text)).moved
    sizes, counts = collections.Counter(), collections.Counter()
    parts = collections.Counter()
    for moved in kernels:
        name = kind(moved)
        sizes[name] += moved.size
        counts[name] += 1
        if name != PRODUCTS:
            part = moved.module.partition('/')[0]
            parts[part + (' (backward)' if moved.backward else '')] += moved.size
    rows = [
        [name, counts[name], f'{size / 1e9:.2f}'] for name, size in sizes.most_common()
    ]
    rows.append(['all', sum(counts.values()), f'{sum(sizes.values()) / 1e9:.2f}'])
    most = [[name, f'{size / 1e9:.2f}'] for name, size in parts.most_common(8)]
    return '\n\n'.join(
        [table(['kernels', 'number', 'GB'], rows), table(['passes of', 'GB'], most)]
    )


def main() -> int:
    """Compiles and prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--config', default='atss_r50_1x', help='name or path')
    parser.add_argument('--samples', type=int, default=16, help='images')
    parser.add_argument('--programs', nargs='+', choices=PROGRAMS, default=PROGRAMS)
    parser.add_argument('--text', type=pathlib.Path, help="folder for XLA's texts")
    flags = parser.parse_args()
    given = os.environ.get('XLA_FLAGS', '')
    os.environ.update(ENVIRONMENT | {'XLA_FLAGS': f'{given} {NO_TRIALS}'})
    for program in flags.programs:
        text = compiled(flags.config, program, flags.samples)
        if flags.text:
            flags.text.mkdir(parents=True, exist_ok=True)
            (flags.text / f'{program}.txt').write_text(text)
        height, width = CANVAS
        heading = f'{program}, {flags.samples} images of {height} x {width}, bfloat16'
        print(f'{heading}\n\n{report(text)}\n')
    return 0


if __name__ == '__main__':
    sys.exit(main())
