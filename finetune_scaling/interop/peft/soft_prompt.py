"""Prompt tuning in PEFT's format: one tensor of virtual token embeddings."""

from typing import Any

import numpy as np

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import (
    ConvertedAdapter,
    PeftAdapter,
    PeftMethod,
    Tensors,
    check_unread_fields,
)
from finetune_scaling.interop.weights.run_weights import TrainedRun

EMBEDDINGS = "prompt_embeddings"
# Fields about initialization.
_IRRELEVANT = frozenset(
    {"num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
     "tokenizer_kwargs"}
)  # fmt: skip


def virtual_token_fields(length: int, dim: int, heads: int, layers: int) -> dict[str, Any]:
    """Return the fields that prompt and prefix tuning share."""
    return {
        "num_virtual_tokens": length,
        "token_dim": dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
    }


def read_length(adapter: PeftAdapter, irrelevant: frozenset[str]) -> int:
    """Return the number of virtual tokens. Raises ConfigError for fields that are not supported."""
    fields = adapter.parsed_fields()
    length, submodules = fields.positive_integer("num_virtual_tokens"), fields.integer("num_transformer_submodules", 1)
    if submodules != 1:
        raise fields.unsupported("num_transformer_submodules", submodules, "a decoder has 1")
    fields.get("token_dim")  # implied by the base
    check_unread_fields(fields, irrelevant)
    return length


def read_only_tensor(adapter: PeftAdapter, shape: tuple[int, ...]) -> np.ndarray:
    """Return the tensor of virtual tokens. Raises CheckpointError where there are others or its shape differs."""
    if others := sorted({*adapter.tensors} - {EMBEDDINGS}):
        raise CheckpointError(f"{adapter.weights}: unexpected tensor {others[0]}. Fix: copy the adapter again.")
    return adapter.check_shape(EMBEDDINGS, shape)


def _export(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    prompt = run.adapter.get("prompt/embedding")
    if prompt is None or not prompt.size:
        raise ConfigError(f"{run.found.directory}: method.length = 0, so there is no adapter to export")
    length, dim = prompt.shape
    fields = virtual_token_fields(length, dim, match.config.heads, match.config.layers)
    return {**fields, "prompt_tuning_init": "RANDOM"}, {EMBEDDINGS: prompt}


def _read(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    length = read_length(adapter, _IRRELEVANT)
    prompt = read_only_tensor(adapter, (length, match.config.model_dim))
    return ConvertedAdapter({"name": "prompt", "length": length}, {"prompt/embedding": prompt})


PROMPT_TUNING = PeftMethod("PROMPT_TUNING", ("prompt",), _export, _read)
