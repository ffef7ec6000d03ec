"""The mesh of devices: data, fully sharded (fsdp) and tensor parallelism, by two numbers."""

import dataclasses
from collections.abc import Sequence

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh

from finetune_scaling.errors import ConfigError
from finetune_scaling.sharding.axes import DEFAULT_RULES, MESH_AXES, AxisRules, shard_count

ALL = -1  # of fsdp: as many devices as tensor leaves


@dataclasses.dataclass(frozen=True)
class ShardingConfig:
    """fsdp: devices over which parameters and optimizer state are divided, and batches too; -1 takes all that are left.

    tensor: devices over which heads, feed-forward and vocabulary are divided. What is left of the devices is plain data
    parallelism. axes: which mesh axes divide which dimensions.
    """

    fsdp: int = 1
    tensor: int = 1
    axes: AxisRules = DEFAULT_RULES

    def __post_init__(self) -> None:
        if self.fsdp < 1 and self.fsdp != ALL:
            raise ConfigError(f"sharding.fsdp = {self.fsdp} must be at least 1, or {ALL} for all devices that are left")
        if self.tensor < 1:
            raise ConfigError(f"sharding.tensor = {self.tensor} must be at least 1")
        for field in dataclasses.fields(AxisRules):
            unknown = [axis for axis in getattr(self.axes, field.name) if axis not in MESH_AXES]
            if unknown:
                raise ConfigError(f"sharding.axes.{field.name} names {unknown[0]!r}; there are {', '.join(MESH_AXES)}")
        _check_rules(self.axes)

    def shape(self, devices: int) -> tuple[int, int, int]:
        """Sizes of the axes data, fsdp and tensor; ConfigError where they do not divide the devices."""
        fsdp = max(1, devices // self.tensor) if self.fsdp == ALL else self.fsdp
        if devices % (fsdp * self.tensor):
            raise ConfigError(
                f"sharding.fsdp = {self.fsdp} x sharding.tensor = {self.tensor} does not divide the {devices} devices; "
                "change one of them"
            )
        return devices // (fsdp * self.tensor), fsdp, self.tensor


# Logical axes of arrays that there are: no mesh axis can divide two dimensions of one array.
_TOGETHER = (
    *(("layers", "batch", "length", features) for features in ("heads", "kv_heads", "ffn", "vocab")),
    *(("layers", "embed", features) for features in ("heads", "kv_heads", "ffn", "vocab")),
)


def _check_rules(rules: AxisRules) -> None:
    """Raises ConfigError where two dimensions of one array would be divided over one mesh axis."""
    for names in _TOGETHER:
        for place, name in enumerate(names):
            for other in names[:place]:
                if shared := set(getattr(rules, name)) & set(getattr(rules, other)):
                    raise ConfigError(
                        f"sharding.axes.{other} and sharding.axes.{name} both name {min(shared)!r}, and there are "
                        "arrays that have both; take it from one of them"
                    )
    if strangers := set(rules.embed) - set(rules.batch):
        raise ConfigError(
            f"sharding.axes.embed names {min(strangers)!r}, which sharding.axes.batch does not: parameters are gathered"
            " by the devices that share a batch; name it in both"
        )


def make_mesh(config: ShardingConfig, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """The mesh over all devices of all processes, or over those given; tensor neighbours are the nearest devices."""
    chosen = jax.devices() if devices is None else list(devices)
    return jax.make_mesh(
        config.shape(len(chosen)), MESH_AXES, axis_types=(AxisType.Auto,) * len(MESH_AXES), devices=chosen
    )


def check_batch(size: int, accumulation: int, sharding: ShardingConfig, mesh: Mesh | AbstractMesh) -> None:
    """Raises ConfigError where a step's sequences cannot be dealt out evenly."""
    count = shard_count(mesh, sharding.axes.batch)
    if size % (count * accumulation):
        raise ConfigError(
            f"batch.size = {size} is not divisible by {count} (the devices that share a batch) x batch.accumulation = "
            f"{accumulation}; change one of them"
        )
