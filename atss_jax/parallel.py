"""One per-device function, mapped over all devices; arrays between host and devices."""

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from atss_jax.models.layers import BATCH_AXIS

MODES = ('pmap', 'shard_map')


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
    """Sends each device its rows of a host batch; B must divide by the devices."""
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
    """NumPy copies of replicated arrays, read from one device without a gather."""
    return jax.tree.map(lambda x: np.asarray(x.addressable_shards[0].data), tree)
