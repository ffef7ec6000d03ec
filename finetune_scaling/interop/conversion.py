"""Public models in: a Hugging Face directory becomes a run directory that finetuning takes as its base."""

import dataclasses
from typing import Any

from finetune_scaling.sharding.mesh import ShardingConfig


@dataclasses.dataclass(frozen=True)
class Conversion:
    """source: a directory or a name on the hub, @REVISION; dtype: None keeps the files' own."""

    source: str
    out: str
    dtype: str | None = None
    sharding: ShardingConfig = dataclasses.field(default_factory=ShardingConfig)


def convert(conversion: Conversion) -> dict[str, Any]:
    """Converts a model, going on where an earlier call was stopped; returns the record's main figures."""
    raise NotImplementedError
