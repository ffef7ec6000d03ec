"""Batches over devices and processes: each process makes the rows of its own devices, and of no others."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import NamedSharding

Array = jax.Array


def local_rows(sharding: NamedSharding, size: int) -> list[int]:
    """The places of a batch of `size` rows that this process's devices hold, in order."""
    held = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in held])).tolist()


def shard_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding, size: int) -> dict[str, Array]:
    """Global arrays [size, ...] of what each process has of a batch: its local rows [R, ...]."""
    if sharding.is_fully_addressable:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, value, (size, *value.shape[1:]))
        for name, value in batch.items()
    }


def global_array(values: Any, sharding: NamedSharding) -> Array:
    """The global array of values that every process has in full."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])
