"""Slices of TPU chips by name, and their devices on a machine that has none."""

import contextlib
import dataclasses
import importlib.util
import math
import os
import re
from collections.abc import Iterator

import jax
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh

from atss_jax.compilation.chips import CHIPS, Chip
from atss_jax.structures import BATCH_AXIS

# Without them libtpu asks the servers of a cloud which TPU this machine is, and waits.
_NO_QUESTIONS = {
    'TPU_SKIP_MDS_QUERY': '1',
    'TPU_ACCELERATOR_TYPE': 'v5litepod-4',
    'TPU_WORKER_HOSTNAMES': 'localhost',
    'TPU_WORKER_ID': '0',
    # Only the compiler is used, so that other processes, even a training on real chips,
    # are in nobody's way.
    'ALLOW_MULTIPLE_LIBTPU_LOAD': '1',
    # Warnings about a TPU that is not there; errors are raised in any case.
    'TPU_STDERR_LOG_LEVEL': '3',
    'TPU_MIN_LOG_LEVEL': '3',
}


@dataclasses.dataclass(frozen=True)
class Topology:
    """One or several equal slices.

    Attributes:
        chip: what they consist of.
        shape: number of chips along each dimension of a slice.
        slices: number of slices.
    """

    chip: Chip
    shape: tuple[int, ...]
    slices: int = 1

    @property
    def chips(self) -> int:
        """Number of chips of all slices."""
        return self.slices * math.prod(self.shape)

    @property
    def fewest_links(self) -> int:
        """Links of the chip that has fewest within its slice: one in a corner."""
        wraps = self.chip.wraps
        # Cubes have rings only if they consist of whole cubes of 4 x 4 x 4.
        is_open = len(self.shape) == 3 and any(length % wraps for length in self.shape)
        return sum(
            0 if length == 1 else 2 if length >= wraps and not is_open else 1
            for length in self.shape
        )

    def __str__(self) -> str:
        name = f'{self.chip.name}:{"x".join(map(str, self.shape))}'
        return name if self.slices == 1 else f'{name} x{self.slices}'


def read_topology(name: str) -> Topology:
    """The slices that a name means: `v5e:2x4`, or `v5e:4x4 x2` for two of them.

    Raises:
        ValueError: there are no such slices.
    """
    match = re.fullmatch(r'(\w+):(\d+(?:x\d+)*)(?: x(\d+))?', name.strip())
    chip = CHIPS.get(match[1]) if match else None
    slices = int(match[3] or 1) if match else 0
    if chip is None or match[2] not in chip.shapes or slices < 1:
        known = '; '.join(f'{x.name}:{" ".join(x.shapes)}' for x in CHIPS.values())
        raise ValueError(
            f'topology {name!r}: expected CHIP:SHAPE such as v5e:2x4, or several equal '
            f"slices such as 'v5e:4x4 x2'. There are {known}"
        )
    return Topology(chip, tuple(map(int, match[2].split('x'))), slices)


def mesh_of(topology: Topology) -> Mesh:
    """All chips on the one axis `'batch'`, as `devices.device_mesh` has real ones.

    Raises:
        ValueError: libtpu, which holds the compiler, is not installed or refuses.
    """
    if importlib.util.find_spec('libtpu') is None:
        raise ValueError(
            'the compiler for TPUs is not installed; it needs no TPU: pip install '
            "'atss-jax[tpu]'"
        )
    options = dict(topology.chip.options)
    if math.prod(topology.shape) == 1:
        options['chips_per_host_bounds'] = (1, 1, 1)
    if topology.slices > 1:
        options['num_slices'] = topology.slices
    name = f'{topology.chip.name}:{"x".join(map(str, topology.shape))}'
    with _asking_nobody():
        try:
            described = topologies.get_topology_desc(name, 'tpu', **options)
        except (RuntimeError, jax.errors.JaxRuntimeError) as error:
            raise ValueError(f'libtpu refuses {topology}: {error}') from error
    if len(described.devices) != topology.chips:
        raise ValueError(
            f'libtpu has {len(described.devices)} devices for the {topology.chips} '
            f'chips of {topology}'
        )
    return Mesh(np.array(described.devices), (BATCH_AXIS,))


@contextlib.contextmanager
def _asking_nobody() -> Iterator[None]:
    """Sets variables for libtpu, which reads them when it is loaded."""
    added = [name for name in _NO_QUESTIONS if name not in os.environ]
    os.environ.update({name: _NO_QUESTIONS[name] for name in added})
    try:
        yield
    finally:
        for name in added:
            del os.environ[name]
