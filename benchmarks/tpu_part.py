"""What the TPU compiler says of one part of a detector, alone.

Used by `deform_conv_tpu.py` and `window_attention_tpu.py`.
"""

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec

from atss_jax.compilation import hlo
from atss_jax.compilation.topology import Topology, mesh_of, read_topology
from atss_jax.compilation.traffic import traffic

HEADING = (
    'algorithm | HBM traffic | estimated cycles | temporary HBM | compiled in |\n'
    '|---|---|---|---|---|---|'
)


def parsed_topology(description: str) -> Topology:
    """The slice that `--topology` names; from then on JAX computes on the CPU."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument('--topology', default='v5e:1x1')
    try:
        topology = read_topology(parser.parse_args().topology)
    except ValueError as error:
        parser.error(str(error))
    jax.config.update('jax_platforms', 'cpu')
    jax.config.update('jax_enable_compilation_cache', False)
    return topology


def row_of(
    topology: Topology, function: Callable[..., Any], values: Sequence[Any]
) -> str:
    """Compiles a function of shapes for a slice: the rest of a row under `HEADING`."""
    sharding = NamedSharding(mesh_of(topology), PartitionSpec())
    values = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), values
    )
    jax.clear_caches()
    start = time.process_time()
    compiled = jax.jit(function).trace(*values).lower(lowering_platforms=('tpu',))
    compiled = compiled.compile()
    seconds = time.process_time() - start
    moved = traffic(hlo.parse(compiled.as_text()))
    milliseconds = 1e3 * moved.cycles / topology.chip.clock
    memory = compiled.memory_analysis().temp_size_in_bytes / 2**20
    return (
        f'{moved.size / 1e9:.2f} GB | {milliseconds:.1f} ms | {memory:.0f} MiB | '
        f'{seconds:.0f} s |'
    )
