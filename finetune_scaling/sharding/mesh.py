"""The device mesh with axes for data, fully sharded data (fsdp) and tensor parallelism."""

import dataclasses
import math
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from finetune_scaling.errors import ConfigError
from finetune_scaling.sharding.axes import DEFAULT_RULES, MESH_AXES, TENSOR, AxisRules, shard_count

ALL = -1  # fsdp over all devices that tensor leaves


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """Shape of the mesh and sharding rules. The remaining devices are used for data parallelism.

    fsdp: devices that shard parameters, optimizer state and batches; -1: all remaining devices.
    tensor: devices that shard heads, feed-forward dimension and vocabulary.
    axes: mesh axes of each logical axis.
    """

    fsdp: int = 1
    tensor: int = 1
    axes: AxisRules = DEFAULT_RULES

    def __post_init__(self) -> None:
        if self.fsdp < 1 and self.fsdp != ALL:
            raise ConfigError(f"sharding.fsdp = {self.fsdp} must be at least 1, or {ALL} for all remaining devices")
        if self.tensor < 1:
            raise ConfigError(f"sharding.tensor = {self.tensor} must be at least 1")
        for field in dataclasses.fields(AxisRules):
            unknown = [axis for axis in getattr(self.axes, field.name) if axis not in MESH_AXES]
            if unknown:
                raise ConfigError(
                    f"sharding.axes.{field.name} names {unknown[0]!r}; choose from {', '.join(MESH_AXES)}"
                )
        _check_rules(self.axes)

    def shape(self, devices: int) -> tuple[int, int, int]:
        """Return the sizes of the axes data, fsdp and tensor. Raises ConfigError if they do not divide `devices`."""
        fsdp = max(1, devices // self.tensor) if self.fsdp == ALL else self.fsdp
        if devices % (fsdp * self.tensor):
            raise ConfigError(
                f"sharding.fsdp = {self.fsdp} x sharding.tensor = {self.tensor} does not divide the {devices} devices; "
                "change one of them"
            )
        return devices // (fsdp * self.tensor), fsdp, self.tensor


# Logical axes that occur in one array, whose dimensions must have different mesh axes.
_ARRAYS = (
    *(("layers", "batch", "length", features) for features in ("heads", "kv_heads", "ffn", "vocab")),
    *(("layers", "embed", features) for features in ("heads", "kv_heads", "ffn", "vocab")),
)


def _check_rules(rules: AxisRules) -> None:
    """Raise ConfigError if one mesh axis would shard two dimensions of an array."""
    for names in _ARRAYS:
        for index, name in enumerate(names):
            for other in names[:index]:
                if shared := set(getattr(rules, name)) & set(getattr(rules, other)):
                    raise ConfigError(
                        f"sharding.axes.{other} and sharding.axes.{name} both name {min(shared)!r}, but some "
                        "arrays have both axes; remove it from one of them"
                    )
    if missing := set(rules.embed) - set(rules.batch):
        raise ConfigError(
            f"sharding.axes.embed names {min(missing)!r}, which sharding.axes.batch does not: parameters are gathered"
            " by the devices that share a batch; add it there"
        )


def make_mesh(config: ShardingConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Return the mesh over `devices`, by default all devices of all processes; the tensor axis is innermost."""
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(
        config.shape(len(chosen)), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=chosen
    )


def check_batch(size: int, accumulation: int, sharding: ShardingConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raise ConfigError if the batch is not divisible by its shards times the accumulation."""
    count = shard_count(mesh, sharding.axes.batch)
    if size % (count * accumulation):
        fixes = [f"set batch.size to a multiple of {count * accumulation}"]
        if (tensor := _tensor_for(size, accumulation, sharding, mesh.size)) is not None:
            fixes.append(
                f"set sharding.tensor = {tensor}, so that {tensor} devices share a row: its heads, or its length (see "
                "docs/sharding.md)"
            )
        if accumulation > 1:
            fixes.append("lower batch.accumulation")
        raise ConfigError(
            f"batch.size = {size} is not divisible by {count} (the devices that share a batch) x batch.accumulation = "
            f"{accumulation}. Fix: {', or '.join(fixes)}"
        )


def _tensor_for(size: int, accumulation: int, sharding: ShardingConfig, devices: int) -> int | None:
    """Return the smallest sharding.tensor with which devices divide a batch; None if there is none."""
    if TENSOR in sharding.axes.batch:
        return None
    fixed = 1 if sharding.fsdp == ALL else sharding.fsdp
    for tensor in range(sharding.tensor + 1, devices // fixed + 1):
        if devices % (fixed * tensor) == 0:
            shape = dict(zip(MESH_AXES, dataclasses.replace(sharding, tensor=tensor).shape(devices), strict=True))
            if size % (math.prod(shape[axis] for axis in sharding.axes.batch) * accumulation) == 0:
                return tensor
    return None


def host_device() -> jax.Device | None:
    """Return the CPU device, for large arrays and for fits; None if JAX_PLATFORMS excludes it."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
