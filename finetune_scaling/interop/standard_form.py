"""The standard form of a model of ours: the family of public models that computes the same, and what is to be scaled."""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.family import Family
from finetune_scaling.models.config import ModelConfig

# Fields that do not change what a trained model computes, beside rounding.
_FREE = ("embedding_std", "compute_dtype", "remat", "attention")


@dataclasses.dataclass(frozen=True)
class StandardForm:
    """A model as one of a family.

    config: the same with fields of the family; fields: its config.json; scales: what leaves are to be multiplied by.
    """

    family: Family
    config: ModelConfig
    fields: Mapping[str, Any]
    scales: Mapping[str, float]


def standard_form(config: ModelConfig, families: Iterable[Family], what: str) -> StandardForm:
    """The form of a model in the first of the families that computes the same.

    Raises ConfigError that names the fields which differ in each family where none does; what: names the model.
    """
    plain, scales = _without_logit_scale(config)
    refusals = []
    for family in families:
        try:
            fields = family.write_config(plain)
            _check_same(plain, family.read_config(fields, f"as {family.model_type}"))
        except ConfigError as error:
            refusals.append(f"{family.model_type}: {error}")
        else:
            return StandardForm(family, plain, fields, scales)
    raise ConfigError(
        f"{what}: no family of public models computes what this model does. It differs from each in: "
        + "; ".join(refusals)
    )


def _without_logit_scale(config: ModelConfig) -> tuple[ModelConfig, dict[str, float]]:
    """A model without `scale_logits`: the final norm multiplies by its scale last, so that the factor goes there."""
    if not config.scale_logits:
        return config, {}
    factor = config.model_dim**-0.5
    names = ("scale", "bias") if config.norm == "layernorm" else ("scale",)
    return dataclasses.replace(config, scale_logits=False), {f"final_norm/{name}": factor for name in names}


def _check_same(config: ModelConfig, back: ModelConfig) -> None:
    """Raises ConfigError, naming the fields, where a family's fields say something else than the config."""
    ours, theirs = configuration.plain(config), configuration.plain(back)
    differing = [name for name in configuration.difference(ours, theirs) if name.partition(".")[0] not in _FREE]
    if differing:
        raise ConfigError(", ".join(f"{name} ({ours.get(name)!r}, not {theirs.get(name)!r})" for name in differing))
