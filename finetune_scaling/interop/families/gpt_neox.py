"""GPT-NeoX (Black et al., 2022), and Pythia (Biderman et al., 2023): parallel blocks with two LayerNorms, biases,
rotary positions of a part of each head, and queries, keys and values in one tensor.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import Fields, named
from finetune_scaling.interop.families.family import LAYER, Family, Part, Tensor
from finetune_scaling.interop.families.llama_form import ATTENTION_LAYERS, COMPUTE, SHAPE
from finetune_scaling.interop.families.rope_json import read_rope, rope_group, write_scaling
from finetune_scaling.models.config import ModelConfig

_ACTIVATIONS = {"gelu": "gelu", "relu": "relu"}
_FRACTION = 0.25  # of a head's dimensions, where the field is absent
_FEED_FORWARD_LAYERS = ("up", "down")


def read_config(values: Mapping[str, Any], where: str) -> ModelConfig:
    """Our config of a GPT-NeoX's config.json. Raises ConfigError that names `where` and the field."""
    fields = Fields(values, where, "GPT-NeoX")
    shape = {ours: fields.number(theirs) for ours, theirs in SHAPE.items()}
    heads = shape["heads"]
    if heads < 1 or shape["model_dim"] % heads:
        raise ConfigError(
            f"{where}: hidden_size = {shape['model_dim']} is not a multiple of num_attention_heads = {heads}"
        )
    parallel = fields.flag("use_parallel_residual", True)
    form = {
        **shape,
        **_read_rope(fields),
        "kv_heads": heads,
        "head_dim": shape["model_dim"] // heads,
        "block": "parallel" if parallel else "sequential",
        "shared_norm": not parallel,
        "norm": "layernorm",
        "norm_epsilon": fields.number("layer_norm_eps", 1e-5),
        "activation": fields.choice(("hidden_act",), "gelu", _ACTIVATIONS),
        "biased": (ATTENTION_LAYERS if fields.flag("attention_bias", True) else ()) + _FEED_FORWARD_LAYERS,
        "tied_head": fields.flag("tie_word_embeddings"),
        "scale_logits": False,
        "embedding_std": fields.number("initializer_range", 0.02),
        "compute_dtype": fields.choice(("dtype", "torch_dtype"), "float32", COMPUTE),
    }
    fields.check_rest()
    return configuration.build(ModelConfig, form, where)


def write_config(config: ModelConfig) -> dict[str, Any]:
    """The fields of a GPT-NeoX's config.json."""
    return {
        "architectures": ["GPTNeoXForCausalLM"],
        "model_type": "gpt_neox",
        **{theirs: getattr(config, ours) for ours, theirs in SHAPE.items()},
        "layer_norm_eps": config.norm_epsilon,
        "hidden_act": named(config.activation, _ACTIVATIONS, "activation", "gpt_neox"),
        "use_parallel_residual": config.block == "parallel",
        "attention_bias": "attention_out" in config.biased,
        "rotary_emb_base": config.rope_theta,
        "rotary_pct": config.rope_fraction,
        "rope_scaling": write_scaling(config.rope_scaling),
        "tie_word_embeddings": config.tied_head,
        "initializer_range": config.embedding_std,
        "dtype": config.compute_dtype,
    }


def tensors(config: ModelConfig) -> tuple[Tensor, ...]:
    """Every tensor of a GPT-NeoX."""
    layer = f"gpt_neox.layers.{LAYER}"
    fused = {name: Part(i, 3, config.heads) for i, name in enumerate(("query", "key", "value"))}
    dense: dict[str, tuple[str, Part | None]] = {
        **{f"attention/{name}": (f"{layer}.attention.query_key_value", part) for name, part in fused.items()},
        "attention/attention_out": (f"{layer}.attention.dense", None),
        "feed_forward/up": (f"{layer}.mlp.dense_h_to_4h", None),
        "feed_forward/down": (f"{layer}.mlp.dense_4h_to_h", None),
    }
    norms = {
        "layers/norm": f"{layer}.input_layernorm",
        "layers/feed_forward_norm": f"{layer}.post_attention_layernorm",
        "final_norm": "gpt_neox.final_layer_norm",
    }
    return (
        Tensor("gpt_neox.embed_in.weight", "embedding"),
        *(
            Tensor(f"{theirs}.weight", f"layers/{ours}/kernel", transposed=True, part=part)
            for ours, (theirs, part) in dense.items()
        ),
        *(
            Tensor(f"{theirs}.bias", f"layers/{ours}/bias", part=part)
            for ours, (theirs, part) in dense.items()
            if ours.rpartition("/")[2] in config.biased
        ),
        *(
            Tensor(f"{theirs}.{kind}", f"{ours}/{leaf}")
            for ours, theirs in norms.items()
            for kind, leaf in (("weight", "scale"), ("bias", "bias"))
        ),
        *(() if config.tied_head else (Tensor("embed_out.weight", "head", transposed=True),)),
    )


def _read_rope(fields: Fields) -> dict[str, Any]:
    group = rope_group(fields)
    older = fields.number("rotary_emb_base", 10_000.0), fields.number("rotary_pct", _FRACTION)
    fraction = older[1] if group is None else group.number("partial_rotary_factor", older[1])
    return {**read_rope(fields, group, older[0]), "rope_fraction": fraction}


GPT_NEOX = Family(
    "gpt_neox",
    read_config,
    tensors,
    write_config,
    # The causal mask, which older files keep as a tensor, and rotary frequencies.
    ignored=tuple(
        f"gpt_neox.layers.{LAYER}.attention.{name}" for name in ("bias", "masked_bias", "rotary_emb.inv_freq")
    ),
)
