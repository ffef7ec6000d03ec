"""Merging a tuned model into a plain one that computes the same without the method."""

import dataclasses
from collections.abc import Collection
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.tuning.method import TuningMethod


def merge_adapter(config: ModelConfig, method: TuningMethod, params: Params) -> tuple[ModelConfig, Params]:
    """Return config and parameters of a plain model that computes the same as the tuned one.

    Raises ConfigError for a method that no plain model can express (prompts, prefixes, bottlenecks).
    """
    if not method.mergeable:
        raise ConfigError(
            f"method {method.name!r} cannot be merged: a model without it cannot compute the same. Fix: keep the "
            "adapter next to its base"
        )
    biases: set[str] = set()

    def plain(name: str, node: Any) -> Any:
        if not isinstance(node, dict):
            return node
        if "kernel" not in node:
            return {child: plain(child, value) for child, value in node.items()}
        merged = node if method.adapter is None else method.adapter.merge(name, node)
        if "bias" in merged:
            biases.add(name)
        return merged

    merged = {**params, "layers": plain("layers", params["layers"])}
    return with_biases(config, biases), merged


def with_biases(config: ModelConfig, layers: Collection[str]) -> ModelConfig:
    """Return the config of a model in which these dense layers have a bias, too."""
    if set(layers) <= set(config.biased):
        return config
    biased = tuple(name for name in DENSE_LAYERS if name in layers or name in config.biased)
    return dataclasses.replace(config, biased=biased)
