"""The family of public models that computes the same as one of our models."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family, Tensor
from finetune_scaling.interop.families.registry import FAMILIES
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base

# Fields that do not change what a trained model computes, except for rounding.
_IRRELEVANT = ("embedding_std", "compute_dtype", "matmul_precision", "remat", "attention")


@dataclasses.dataclass(frozen=True)
class FamilyMatch:
    """One of our models, expressed as a model of a public family.

    Attributes:
        family: The family.
        config: Our config, restricted to fields of the family.
        fields: The fields of its config.json.
        logit_scale: The factor of our logits that the family lacks; it moves into the final norm. None for 1.
    """

    family: Family
    config: ModelConfig
    fields: Mapping[str, Any]
    logit_scale: float | None

    @property
    def tensors(self) -> list[list[Tensor]]:
        """The tensors of the model, grouped by the tensor of the files that holds them."""
        groups: dict[str, list[Tensor]] = {}
        for tensor in self.family.tensors(self.config):
            groups.setdefault(tensor.name, []).append(tensor)
        return list(groups.values())

    def leaf(self, path: str, value: np.ndarray) -> np.ndarray:
        """Return the value that a leaf, or one layer of it, has in the family's model."""
        folder, _, name = path.rpartition("/")
        if self.logit_scale is None or folder != "final_norm":
            return value
        offset = self.config.norm_offset if name == "scale" else 0.0
        return ((value.astype(np.float32) + offset) * self.logit_scale - offset).astype(value.dtype)


def families_for(found: RunCheckpoint) -> list[Family]:
    """Return all families, starting with the family of the public model that a run is based on."""
    while found.run_config.public is None and found.run_config.base is not None:
        found = find_base(found.run_config.base)
    first = found.run_config.public.family if found.run_config.public else ""
    return sorted(FAMILIES.values(), key=lambda family: family.model_type != first)


def match_family(config: ModelConfig, families: Iterable[Family], what: str) -> FamilyMatch:
    """Return the first of the families that computes the same as a model of this config.

    Raises:
        ConfigError: No family does; names `what`, the nearest family and the fields that differ.
    """
    unscaled = dataclasses.replace(config, scale_logits=False)  # the final norm takes the factor instead
    logit_scale = config.model_dim**-0.5 if config.scale_logits else None
    differences: dict[str, list[str]] = {}
    for family in families:
        try:
            fields = family.write_config(unscaled)
            read_back = family.read_config(fields, f"{what}, as {family.model_type}")
        except ConfigError:  # the family cannot express this activation or shape, but another may
            continue
        differences[family.model_type] = _differences(unscaled, read_back)
        if not differences[family.model_type]:
            return FamilyMatch(family, unscaled, fields, logit_scale)
    nearest = min(differences, key=lambda name: len(differences[name]))
    raise ConfigError(
        f"{what}: no family of public models computes this model. The nearest is {nearest}, which differs in "
        f"{', '.join(differences[nearest])}. Fix: pretrain the model with these values to export it."
    )


def _differences(config: ModelConfig, read_back: ModelConfig) -> list[str]:
    """Return the fields in which a family's model differs from ours, with the family's values."""
    ours, family = configuration.plain(config), configuration.plain(read_back)
    differing = [
        name for name in configuration.differing_fields(ours, family) if name.partition(".")[0] not in _IRRELEVANT
    ]
    return [f"{name} = {family.get(name)!r} (not {ours.get(name)!r})" for name in differing]
