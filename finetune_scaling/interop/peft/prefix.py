"""Prefix tuning in PEFT's format: keys and values [P, layers * 2 * kv_heads * head_dim] of all layers in one tensor.

PEFT stores the keys and values also where an MLP computes them in training, so that an imported prefix has no MLP.
"""

from typing import Any

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import ConvertedAdapter, PeftAdapter, PeftMethod, Tensors
from finetune_scaling.interop.peft.soft_prompt import EMBEDDINGS, read_length, read_only_tensor, virtual_token_fields
from finetune_scaling.interop.weights.run_weights import TrainedRun
from finetune_scaling.trees import flatten, unflatten

KEYS, VALUES = "layers/attention/prefix_keys", "layers/attention/prefix_values"
_IRRELEVANT = frozenset(
    {"encoder_hidden_size", "init_weights", "num_attention_heads", "num_layers", "prefix_projection"}
)


def _export(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    config = match.config
    if not run.tuning.prompt_length:
        raise ConfigError(f"{run.found.directory}: method.length = 0, so there is no adapter to export")
    leaves = flatten(run.tuning.model_params(run.model, unflatten(run.adapter)))
    stacked = np.stack([np.asarray(leaves[KEYS]), np.asarray(leaves[VALUES])], axis=1)  # [layers, 2, P, kv, head_dim]
    embeddings = stacked.transpose(2, 0, 1, 3, 4).reshape(run.tuning.prompt_length, -1)
    dim = config.kv_heads * config.head_dim
    fields = virtual_token_fields(run.tuning.prompt_length, dim, config.kv_heads, config.layers)
    return {**fields, "prefix_projection": False, "encoder_hidden_size": dim}, {EMBEDDINGS: embeddings}


def _read(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    config, length = match.config, read_length(adapter, _IRRELEVANT)
    shape = (config.layers, 2, config.kv_heads, config.head_dim)
    embeddings = read_only_tensor(adapter, (length, int(np.prod(shape))))
    keys, values = embeddings.reshape(length, *shape).transpose(2, 1, 0, 3, 4)  # each [layers, P, kv_heads, head_dim]
    return ConvertedAdapter({"name": "prefix", "length": length}, {KEYS: keys, VALUES: values})


PREFIX_TUNING = PeftMethod("PREFIX_TUNING", ("prefix",), _export, _read)
