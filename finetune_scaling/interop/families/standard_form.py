"""The standard form of a model of ours: the family of public models that computes the same, and what is scaled."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family
from finetune_scaling.models.config import ModelConfig

# Fields that do not change what a trained model computes, beside rounding.
_FREE = ("embedding_std", "compute_dtype", "remat", "attention")


@dataclasses.dataclass(frozen=True)
class StandardForm:
    """A model as one of a family.

    config: the same with fields of the family; fields: its config.json; logit_scale: what logits were multiplied by in
    ours, which the last norm does there.
    """

    family: Family
    config: ModelConfig
    fields: Mapping[str, Any]
    logit_scale: float | None

    def leaf(self, path: str, value: np.ndarray) -> np.ndarray:
        """A leaf of ours, or one layer of it, as the form has it."""
        folder, _, name = path.rpartition("/")
        if self.logit_scale is None or folder != "final_norm":
            return value
        offset = self.config.norm_offset if name == "scale" else 0.0
        return ((value.astype(np.float32) + offset) * self.logit_scale - offset).astype(value.dtype)


def standard_form(config: ModelConfig, families: Iterable[Family], what: str) -> StandardForm:
    """The form of a model in the first of the families that computes the same.

    Raises ConfigError that names the nearest family and the fields which differ there where none does; what: the model.
    """
    # The last norm multiplies by its scale in the end, so that what logits are multiplied by can go there.
    plain = dataclasses.replace(config, scale_logits=False)
    logit_scale = config.model_dim**-0.5 if config.scale_logits else None
    refusals: dict[str, list[str]] = {}
    for family in families:
        try:
            fields = family.write_config(plain)
            back = family.read_config(fields, f"{what}, as {family.model_type}")
        except ConfigError:  # it has no word for the activation, or the shape, but others do
            continue
        differing = _differences(plain, back)
        if not differing:
            return StandardForm(family, plain, fields, logit_scale)
        refusals[family.model_type] = differing
    nearest = min(refusals, key=lambda name: len(refusals[name]))
    raise ConfigError(
        f"{what}: no family of public models computes this model; the nearest is {nearest}, which differs in "
        f"{', '.join(refusals[nearest])}; models that were pretrained with a family's fields go out"
    )


def _differences(config: ModelConfig, back: ModelConfig) -> list[str]:
    """The fields in which a family's model differs from ours, with the family's values."""
    ours, theirs = configuration.plain(config), configuration.plain(back)
    differing = [name for name in configuration.differing_fields(ours, theirs) if name.partition(".")[0] not in _FREE]
    return [f"{name} = {theirs.get(name)!r} (not {ours.get(name)!r})" for name in differing]
