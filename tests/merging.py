"""Merging of a tuned model in memory, all layers at once, against which tests compare cached and exported models."""

import dataclasses
from typing import Any

from finetune_scaling.models.config import DENSE_LAYERS, ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.tuning.method import TuningMethod


def merge_adapter(config: ModelConfig, method: TuningMethod, params: Params) -> tuple[ModelConfig, Params]:
    """Return config and parameters of a plain model that computes the same as the tuned one."""
    biases = set(config.biased)

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
    return dataclasses.replace(config, biased=tuple(name for name in DENSE_LAYERS if name in biases)), merged
