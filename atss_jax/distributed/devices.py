"""One per-device function, mapped over all devices of all hosts; arrays to and fro."""

import glob
import json
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from atss_jax.distributed import cluster, hosts
from atss_jax.structures import BATCH_AXIS

MODES = ('pmap', 'shard_map')


def start(
    coordinator: str | None = None,
    num_processes: int | None = None,
    process_id: int | None = None,
    start_timeout: int = 300,
    collective_timeout: int = 600,
) -> None:
    """Joins the other processes of a run, if there are any; before any use of JAX.

    On Cloud TPU, under SLURM's `srun`, Open MPI's `mpirun` and in a Kubernetes job all
    is found out; elsewhere the first three arguments say it. One process needs none.

    Args:
        coordinator: `host:port` of process 0.
        num_processes: how many there are; 1 looks for no others.
        process_id: which one this is, from 0.
        start_timeout: seconds to wait for the others.
        collective_timeout: seconds that anything may take from then on; see `hosts`.

    Raises:
        ValueError: the others are not there in time, or disagree.
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
            # Much shorter: a thread of its own beats, however long a step takes.
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
        _meet()


def _arguments_of(member):
    """What tells JAX who we are, so that it does not look for itself."""
    arguments = {
        'coordinator_address': member.coordinator,
        'num_processes': member.num_processes,
        'process_id': member.process_id,
        'cluster_detection_method': 'deactivate',
    }
    if not member.alone_on_host:
        arguments['local_device_ids'] = _own_devices()
    return arguments


def _own_devices():
    """The GPU of one of several processes on a host; None: all that it can see.

    A launcher that binds GPUs to tasks shows each its own; one that does not shows all,
    and the task's number on the host tells them apart.
    """
    local = os.environ.get(
        'SLURM_LOCALID', os.environ.get('OMPI_COMM_WORLD_LOCAL_RANK')
    )
    visible = os.environ.get('CUDA_VISIBLE_DEVICES')
    gpus = len(visible.split(',')) if visible else len(glob.glob('/dev/nvidia[0-9]*'))
    return None if local is None or gpus <= 1 else [int(local)]


def _meet():
    """All devices talk to each other once, right after all processes came together.

    The first time that a group of devices does is when it connects, and some libraries
    wait 30 s for that: not enough where one host compiles its first step longer than
    another, or another finds it in its cache.
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
            f'the hosts have {counts} devices: a batch does not divide equally over '
            'them; use hosts that are alike'
        )


def is_first() -> bool:
    """Whether this is process 0, the one that writes and prints."""
    return jax.process_index() == 0


def local_rows(batch_size: int) -> tuple[int, int]:
    """First and last+1 row of a global batch that this process loads.

    Raises:
        ValueError: the rows do not divide by the devices.
    """
    if batch_size % jax.device_count():
        raise ValueError(
            f'a batch of {batch_size} does not divide by {jax.device_count()} devices'
        )
    share = batch_size // jax.process_count()
    return jax.process_index() * share, (jax.process_index() + 1) * share


def device_mesh() -> Mesh:
    """All devices on the one axis `'batch'`."""
    shape = (jax.device_count(),)
    return jax.make_mesh(shape, (BATCH_AXIS,), axis_types=(AxisType.Auto,))


def map_over_devices(
    function: Callable[..., Any], mode: str, donate_first: bool = False
) -> Callable[..., Any]:
    """Maps `function(replicated, local_batch)` over all devices.

    The function sees its share of the batch (leading axis B / devices) and may reduce
    over axis `'batch'`. Its outputs must be the same on all devices, except under
    `gather` (see `map_rows`). Both modes run one function and give the same numbers.

    Args:
        function: what one device does.
        mode: 'pmap', or 'shard_map' for `jit(shard_map)`.
        donate_first: gives the memory of the first argument to the outputs.
    """
    return _map(function, mode, PartitionSpec(), donate_first)


def map_rows(function: Callable[..., Any], mode: str) -> Callable[..., Any]:
    """Like `map_over_devices`, for outputs that have one row an input row."""
    return _map(function, mode, PartitionSpec(BATCH_AXIS), False)


def _map(function, mode, out_spec, donate_first):
    donate = (0,) if donate_first else ()
    by_row = out_spec != PartitionSpec()
    if mode == 'pmap':
        mapped = jax.pmap(
            function,
            axis_name=BATCH_AXIS,
            in_axes=(None, 0),
            out_axes=0 if by_row else None,
            donate_argnums=donate,
        )
        if not by_row:
            return mapped
        return lambda first, batch: jax.tree.map(_merge_devices, mapped(first, batch))
    # check_vma would make pmean(grad(local loss)) larger by the number of devices.
    mapped = jax.shard_map(
        function,
        mesh=device_mesh(),
        in_specs=(PartitionSpec(), PartitionSpec(BATCH_AXIS)),
        out_specs=out_spec,
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=donate)


def _merge_devices(x):
    """(devices, rows, ...) to (devices*rows, ...)."""
    return x.reshape(-1, *x.shape[2:])


def replicate(tree: Any) -> Any:
    """Puts a copy of every array on every device."""
    return jax.device_put(tree, NamedSharding(device_mesh(), PartitionSpec()))


def shard_rows(batch: dict[str, np.ndarray], mode: str) -> dict[str, Any]:
    """Sends each device of this process its part of `local_rows` of a batch."""
    devices = jax.local_device_count()
    if mode == 'pmap':
        return {
            name: value.reshape(devices, len(value) // devices, *value.shape[1:])
            for name, value in batch.items()
        }
    sharding = NamedSharding(device_mesh(), PartitionSpec(BATCH_AXIS))
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


def rows_to_host(x: jax.Array) -> np.ndarray:
    """The rows of this process of an output of `map_rows`, in order."""
    if x.is_fully_addressable:
        return np.asarray(x)
    shards = sorted(x.addressable_shards, key=lambda shard: shard.index[0].start)
    return np.concatenate([np.asarray(shard.data) for shard in shards])


def from_first(value: Any) -> Any:
    """What process 0 has, on every process; a collective. JSON values only."""
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = multihost_utils.broadcast_one_to_all(np.int32(len(text)))
    padded = np.resize(text, int(size))
    return json.loads(bytes(multihost_utils.broadcast_one_to_all(padded)))


def gather(columns: Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """The columns of every process, by process; a collective.

    Columns may differ in length between processes, not in their other axes or types.
    """
    if jax.process_count() == 1:
        return [dict(columns)]
    parts = {}
    for name, column in columns.items():
        counts = np.asarray(multihost_utils.process_allgather(np.int32(len(column))))
        # As bytes: JAX would make 64-bit numbers 32-bit ones.
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
    """The values of all processes, one process after the other; a collective."""
    return np.concatenate([part['values'] for part in gather({'values': values})])
