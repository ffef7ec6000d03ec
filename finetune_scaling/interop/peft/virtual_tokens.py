"""Prompt and prefix tuning in PEFT's format: one tensor with a row per virtual token.

A row is the token's embedding, or its keys and values in all layers: [P, layers * 2 * kv_heads * head_dim]. PEFT stores
the keys and values also where an MLP computes them in training, so that an imported prefix has no MLP.
"""

import math
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
from finetune_scaling.trees import flatten, unflatten

_TENSOR = "prompt_embeddings"
_PROMPT = "prompt/embedding"
_KEYS, _VALUES = "layers/attention/prefix_keys", "layers/attention/prefix_values"
# Fields about initialization.
_IRRELEVANT = frozenset(
    {"encoder_hidden_size", "init_weights", "num_attention_heads", "num_layers", "prefix_projection",
     "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path", "tokenizer_kwargs"}
)  # fmt: skip


def _export_prompt(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    config = match.config
    fields = _virtual_token_fields(run, config.model_dim, config.heads, config.layers)
    return {**fields, "prompt_tuning_init": "RANDOM"}, {_TENSOR: run.adapter[_PROMPT]}


def _export_prefix(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    config, dim = match.config, match.config.kv_heads * match.config.head_dim
    fields = _virtual_token_fields(run, dim, config.kv_heads, config.layers)
    leaves = flatten(run.tuning.model_params(run.model, unflatten(run.adapter)))
    stacked = np.stack([np.asarray(leaves[_KEYS]), np.asarray(leaves[_VALUES])], axis=1)  # [layers, 2, P, kv, head_dim]
    embeddings = stacked.transpose(2, 0, 1, 3, 4).reshape(run.tuning.prompt_length, -1)
    return {**fields, "prefix_projection": False, "encoder_hidden_size": dim}, {_TENSOR: embeddings}


def _virtual_token_fields(run: TrainedRun, dim: int, heads: int, layers: int) -> dict[str, Any]:
    """Return the fields that both have. Raises ConfigError where there are no virtual tokens."""
    if not run.tuning.prompt_length:
        raise ConfigError(f"{run.found.directory}: method.length = 0, so it has no adapter. Fix: export its base.")
    return {
        "num_virtual_tokens": run.tuning.prompt_length,
        "token_dim": dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": heads,
        "num_layers": layers,
    }


def _read_prompt(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    prompt = _read_virtual_tokens(adapter, (match.config.model_dim,))
    return ConvertedAdapter({"name": "prompt", "length": len(prompt)}, {_PROMPT: prompt})


def _read_prefix(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    config = match.config
    tokens = _read_virtual_tokens(adapter, (config.layers, 2, config.kv_heads, config.head_dim))
    keys, values = tokens.transpose(2, 1, 0, 3, 4)  # each [layers, P, kv_heads, head_dim]
    return ConvertedAdapter({"name": "prefix", "length": len(tokens)}, {_KEYS: keys, _VALUES: values})


def _read_virtual_tokens(adapter: PeftAdapter, shape: tuple[int, ...]) -> np.ndarray:
    """Return the virtual tokens, [P, *shape].

    Raises ConfigError for a field that is not supported, and CheckpointError where tensors differ from those expected.
    """
    fields = adapter.parsed_fields()
    length, submodules = fields.positive_integer("num_virtual_tokens"), fields.integer("num_transformer_submodules", 1)
    if submodules != 1:
        raise fields.unsupported("num_transformer_submodules", submodules, "a decoder has 1")
    fields.get("token_dim")  # implied by the base
    check_unread_fields(fields, _IRRELEVANT)
    if others := sorted({*adapter.tensors} - {_TENSOR}):
        raise CheckpointError(f"{adapter.weights}: unexpected tensor {others[0]}. Fix: copy the adapter again.")
    return adapter.tensor(_TENSOR, (length, math.prod(shape))).reshape(length, *shape)


PROMPT_TUNING = PeftMethod("PROMPT_TUNING", ("prompt",), _export_prompt, _read_prompt)
PREFIX_TUNING = PeftMethod("PREFIX_TUNING", ("prefix",), _export_prefix, _read_prefix)
