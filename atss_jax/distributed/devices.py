"""Maps a function over the devices of all hosts, and moves arrays to and from them."""

import glob
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.extend.backend import clear_backends
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from atss_jax.distributed import cluster, forked, hosts
from atss_jax.structures import BATCH_AXIS

MODES = ('pmap', 'shard_map')
_BFLOAT16_CAPABILITY = 8.0  # of GPUs of NVIDIA's: Ampere


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: int = 300,
    collective_timeout: int = 600,
) -> None:
    """Joins the other processes of a run, if there are any.

    Call it before JAX is used. On Cloud TPU, under SLURM's `srun` or Open MPI's
    `mpirun`, and in a Kubernetes job, the first three arguments are found
    automatically; elsewhere give them. A run of one process needs none of them.

    Args:
        coordinator: `host:port` of process 0.
        num_processes: number of processes; 1: do not look for others.
        process_id: number of this process, from 0.
        start_timeout: seconds to wait for the other processes.
        collective_timeout: seconds without progress after which a process gives up;
            see `hosts.watch`.

    Raises:
        ValueError: the other processes do not come in time, or disagree.
    """
    member = cluster.find(coordinator, num_processes, process_id)
    arguments = {}
    if member is not None:
        cluster.call_roll(member, start_timeout)
        arguments = _arguments_of(member)
    elif num_processes == 1 or not cluster.leave_to_jax():
        return
    try:
        jax.distributed.initialize(
            **arguments,
            initialization_timeout=start_timeout,
            # Short, since a thread sends heartbeats however long a step takes.
            heartbeat_timeout_seconds=max(10, min(60, collective_timeout // 4)),
        )
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f'cannot join the other processes of this run: {error}. If there are none, '
            'give --num_processes=1; else --coordinator, --num_processes, --process_id'
        ) from error
    if jax.process_count() > 1:
        hosts.watch(collective_timeout)
        _check_device_counts()
        _connect_devices()


def _arguments_of(member):
    """Arguments that stop JAX from detecting the cluster itself."""
    arguments = {
        'coordinator_address': member.coordinator,
        'num_processes': member.num_processes,
        'process_id': member.process_id,
        'cluster_detection_method': 'deactivate',
    }
    if not member.alone_on_host:
        arguments['local_device_ids'] = _own_gpu()
    return arguments


def _own_gpu():
    """The GPU of this process, where a host runs several; None: all visible GPUs.

    A launcher that binds GPUs to tasks makes only one visible to each. Without binding
    all are visible, and the task's number on the host says which one to use.
    """
    local = os.environ.get(
        'SLURM_LOCALID', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK')
    )
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = len(visible.split(',')) if visible else len(glob.glob('/dev/nvidia[0-9]*'))
    return None if local is None or gpus <= 1 else [int(local)]


def _connect_devices():
    """Runs one collective over all devices, right after all processes have joined.

    Devices connect at their first collective, and some libraries wait only 30 s for
    that. Hosts that compile their first step, or read it from a cache, may be further
    apart.
    """
    ones = {'one': np.ones((jax.local_device_count(), 1), np.float32)}
    total = map_over_devices(
        lambda zero, batch: zero + jax.lax.psum(batch['one'].sum(), BATCH_AXIS),
        'shard_map',
    )(replicate(np.float32(0)), shard_rows(ones, 'shard_map'))
    if to_host(total) != jax.device_count():
        raise ValueError(f'a sum over {jax.device_count()} devices gave {total}')


def _check_device_counts():
    counts = [0] * jax.process_count()
    for device in jax.devices():
        counts[device.process_index] += 1
    if len(set(counts)) > 1:
        raise ValueError(
            f'the hosts have {counts} devices, so a batch does not divide equally; '
            'use hosts with the same number of devices'
        )


def is_first() -> bool:
    """Whether this is process 0, which writes files and prints."""
    forked.check()
    return jax.process_index() == 0


def local_rows(batch_size: int) -> tuple[int, int]:
    """First row of a global batch that this process loads, and the one after its last.

    Raises:
        ValueError: the batch size is not a multiple of the number of devices.
    """
    forked.check()
    if batch_size % jax.device_count():
        raise ValueError(
            f'a batch of {batch_size} does not divide by {jax.device_count()} devices'
        )
    share = batch_size // jax.process_count()
    return jax.process_index() * share, (jax.process_index() + 1) * share


def find_local(kind: str | None = None) -> list[jax.Device]:
    """Devices of this process.

    Args:
        kind: 'cpu', 'gpu' or 'tpu'; None: the best kind that there is.

    Raises:
        ValueError: there is no such device.
        RuntimeError: this process was forked from one that used devices.
    """
    forked.check()
    try:
        return jax.local_devices(backend=kind)
    except (RuntimeError, AssertionError) as error:
        if problem := missing_platforms():
            raise ValueError(problem) from error
        asked = jax.config.jax_platforms
        raise ValueError(
            f'no {kind or "device"} that JAX can use; it sees '
            f'{sorted({d.platform for d in jax.local_devices()})} '
            + (f'with JAX_PLATFORMS={asked} ' if asked else '')
            + f'({error})'
        ) from error


def missing_platforms() -> str | None:
    """A message if JAX_PLATFORMS asks for what this machine does not have, else None.

    JAX then ends with a bare AssertionError, or names a platform that nobody asked for.
    """
    asked = jax.config.jax_platforms
    if not asked:
        return None
    try:
        jax.devices()
        return None
    except (RuntimeError, AssertionError) as error:
        why = ' '.join(str(error).partition('(set JAX_PLATFORMS')[0].split())
        why = f' ({why})' if asked in why else ''
    jax.config.update('jax_platforms', '')
    try:
        usable = sorted({device.platform for device in jax.devices()})
    finally:
        # Nothing may go on with another platform than the user asked for.
        jax.config.update('jax_platforms', asked)
        clear_backends()
    return (
        f'JAX_PLATFORMS={asked}, but JAX can use only {", ".join(usable)} here{why}; '
        'unset this variable to use what there is. GPUs and TPUs need their driver and '
        'the extra [cuda] or [tpu] of this package: see docs/install.md'
    )


def check_bfloat16(devices: Sequence[jax.Device]) -> None:
    """Checks that devices can compute in bfloat16.

    Raises:
        ValueError: one is a GPU of NVIDIA's that is older than that.
    """
    for device in devices:
        capability = getattr(device, 'compute_capability', '')  # AMD's is a name
        is_number = re.fullmatch(r'\d+\.\d+', str(capability))
        if is_number and float(capability) < _BFLOAT16_CAPABILITY:
            raise ValueError(
                f'fp16 is set, but {device.device_kind} (compute capability '
                f'{capability}) does not compute in bfloat16, which takes '
                f'{_BFLOAT16_CAPABILITY} or later; train in float32 with '
                '--config.fp16=None'
            )


def for_batch(devices: Sequence[jax.Device], batch_size: int) -> list[jax.Device]:
    """As many of the devices as divide a batch equally."""
    return list(devices[: math.gcd(batch_size, len(devices))])


def device_mesh(devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Devices, by default all of all hosts, on the one axis `'batch'`."""
    if devices is not None:
        return Mesh(np.array(devices), (BATCH_AXIS,))
    shape = (jax.device_count(),)
    return jax.make_mesh(shape, (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def map_over_devices(
    function: Callable[..., Any],
    mode: str,
    donate_first: bool = False,
    mesh: Mesh | None = None,
) -> Callable[..., Any]:
    """Maps `function(replicated, local_batch)` over all devices.

    The function sees its device's rows of the batch (leading axis B / devices) and may
    reduce over axis `'batch'`. Its outputs must be equal on all devices. Both modes run
    the same function and give the same numbers.

    Args:
        function: what one device does.
        mode: 'pmap', or 'shard_map' for `jit(shard_map)`.
        donate_first: reuse the memory of the first argument for the outputs.
        mesh: as for `map_rows`.
    """
    donate = (0,) if donate_first else ()
    if mode == 'pmap':
        return _pmap(function, None, donate)
    mesh = device_mesh() if mesh is None else mesh
    return _shard_map(function, mesh, PartitionSpec(), donate)


def map_rows(
    function: Callable[..., Any], mode: str, mesh: Mesh | None = None
) -> Callable[..., Any]:
    """Maps a function like `map_over_devices`; its outputs have one row per input row.

    Args:
        function: what one device does.
        mode: 'pmap' or 'shard_map'.
        mesh: devices of this process, for 'shard_map' only; None: all of all hosts.
    """
    if mode == 'pmap':
        mapped = _pmap(function, 0, ())
        # One program for all outputs: each call costs a GPU's host some 0.3 ms.
        merge = jax.jit(lambda tree: jax.tree.map(_merge_devices, tree))
        return lambda first, batch: merge(mapped(first, batch))
    mesh = device_mesh() if mesh is None else mesh
    return _shard_map(function, mesh, PartitionSpec(BATCH_AXIS), ())


def _pmap(function, out_axes, donate):
    return jax.pmap(
        function,
        axis_name=BATCH_AXIS,
        in_axes=(None, 0),
        out_axes=out_axes,
        donate_argnums=donate,
    )


def _shard_map(function, mesh, out_specs, donate):
    mapped = jax.shard_map(
        function,
        mesh=mesh,
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
        out_specs=out_specs,
        # With it, pmean(grad(local loss)) is too large by the number of devices.
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)


def _merge_devices(x):
    """(devices, rows, ...) to (devices*rows, ...)."""
    return x.reshape(-1, *x.shape[2:])


def replicate(tree: Any, mesh: Mesh | None = None) -> Any:
    """Puts a copy of every array on every device of a mesh, by default on all."""
    forked.check()
    mesh = device_mesh() if mesh is None else mesh
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec()))


def shard_rows(
    batch: Mapping[str, np.ndarray], mode: str, mesh: Mesh | None = None
) -> dict[str, Any]:
    """Sends each device of this process its rows of a batch, for a mapped function.

    Args:
        batch: the rows of this process, as by `local_rows`.
        mode: 'pmap' or 'shard_map'.
        mesh: as for `map_rows`.
    """
    if mode == 'pmap':
        count = jax.local_device_count()
        return {
            name: value.reshape(count, len(value) // count, *value.shape[1:])
            for name, value in batch.items()
        }
    mesh = device_mesh() if mesh is None else mesh
    sharding = NamedSharding(mesh, PartitionSpec(BATCH_AXIS))
    return {
        name: jax.make_array_from_process_local_data(sharding, value)
        for name, value in batch.items()
    }


def to_host(tree: Any) -> Any:
    """Replicated arrays as NumPy, read from one device without a gather.

    They may share the device's memory: copy what must outlive a donated step.
    """

    def read(x):
        on_device = isinstance(x, jax.Array)
        return np.asarray(x.addressable_shards[0].data if on_device else x)

    return jax.tree.map(read, tree)


def rows_to_host(tree: Any) -> Any:
    """The rows of this process of the outputs of `map_rows`, in order, as NumPy.

    NumPy arrays, which other programs than JAX's give, are returned as they are.
    """

    def read(x):
        if not isinstance(x, jax.Array) or x.is_fully_addressable:
            return x
        shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
        return np.concatenate([np.asarray(shard.data) for shard in shards])

    return jax.device_get(jax.tree.map(read, tree))


def from_first(value: Any) -> Any:
    """The JSON value that process 0 has, on every process; a collective."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(len(text)))
    padded = np.resize(text, int(size))
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def done_by_first(action: Callable[[], Any]) -> Any:
    """The JSON value that process 0 gets from `action`, on every process; a collective.

    Raises:
        ValueError: process 0 got a ValueError or OSError, which is raised there.
    """
    outcome, error = None, None
    if is_first():
        try:
            outcome = {'value': action()}
        except (ValueError, OSError) as raised:
            outcome, error = {'problem': str(raised)}, raised
    outcome = from_first(outcome)
    if error is not None:
        raise error
    if 'problem' in outcome:
        raise ValueError(outcome['problem'])
    return outcome['value']


def gather(columns: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The columns of every process, in order of processes; a collective.

    The length of a column may differ between processes, its other axes and type not.
    """
    if jax.process_count() == 1:
        return [dict(columns)]
    parts = {}
    for name, column in columns.items():
        counts = np.asarray(multihost_utils.process_allgather(np.int32(len(column))))
        # As bytes, since JAX would turn 64-bit numbers into 32-bit ones.
        width = column.dtype.itemsize * int(np.prod(column.shape[1:]))
        padded = np.zeros((int(counts.max()), width), np.uint8)
        padded[: len(column)] = (
            np.ascontiguousarray(column).view(np.uint8).reshape(len(column), width)
        )
        everyone = np.asarray(multihost_utils.process_allgather(padded))
        parts[name] = [
            np.ascontiguousarray(rows[:count])
            .view(column.dtype)
            .reshape(count, *column.shape[1:])
            for rows, count in zip(everyone, counts.reshape(-1), strict=True)
        ]
    return [
        dict(zip(parts, rows, strict=True))
        for rows in zip(*parts.values(), strict=True)
    ]


def all_of(values: np.ndarray) -> np.ndarray:
    """The values of all processes, concatenated in their order; a collective."""
    return np.concatenate([part['values'] for part in gather({'values': values})])
