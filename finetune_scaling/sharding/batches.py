"""Global batches from the rows that each process makes for its own devices."""

import collections
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import NamedSharding

Array = jax.Array
Batch = TypeVar("Batch")
Transferred = TypeVar("Transferred")


def local_rows(sharding: NamedSharding, size: int) -> list[int]:
    """Return the sorted indices of the rows, of a batch of `size`, that are on this process's devices."""
    indices = sharding.addressable_devices_indices_map((size,)).values()
    return np.unique(np.concatenate([np.arange(size)[index] for index in indices])).tolist()


def shard_batch(batch: Mapping[str, np.ndarray], sharding: NamedSharding, size: int) -> dict[str, Array]:
    """Return the global arrays [size, ...] of a batch of which each process has its local rows [R, ...]."""
    if sharding.is_fully_addressable:
        return jax.device_put(dict(batch), sharding)
    return {
        name: jax.make_array_from_process_local_data(sharding, value, (size, *value.shape[1:]))
        for name, value in batch.items()
    }


def global_array(values: Any, sharding: NamedSharding) -> Array:
    """Return the global array of values that every process has completely."""
    return jax.make_array_from_callback(values.shape, sharding, lambda index: values[index])


def transfer_ahead(batches: Iterable[Batch], transfer: Callable[[Batch], Transferred]) -> Iterator[Transferred]:
    """Yield transfer(batch) of each batch when that of the next batch has begun.

    Transfers to devices are asynchronous: the next batch is transferred while the step of this one runs, also where the
    host waits for the metrics of a step.
    """
    begun: collections.deque[Transferred] = collections.deque()
    for batch in batches:
        begun.append(transfer(batch))
        if len(begun) == 2:
            yield begun.popleft()
    yield from begun
