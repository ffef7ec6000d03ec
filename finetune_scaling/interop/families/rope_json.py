"""Rotary embeddings and attention windows in config.json, in the formats before and since transformers 5."""

import math
from collections.abc import Sequence
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.rope import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

_KNOWN = {  # further fields of each type of scaling
    "default": (),
    "linear": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"),
    "yarn": (
        "factor", "original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale",
        "mscale_all_dim", "truncate",
    ),
}  # fmt: skip
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor")


def rope_group(fields: Fields) -> Fields | None:
    """Return the object with the RoPE parameters; the older `rope_scaling` takes precedence, as in transformers."""
    return fields.group("rope_scaling") or fields.group("rope_parameters")


def read_rope(fields: Fields, group: Fields | None, theta: float = 10_000.0) -> dict[str, Any]:
    """Return rope_theta (default `theta`) and rope_scaling of our config.

    Raises ConfigError for a type of scaling that our decoder does not compute.
    """
    longest = fields.integer("max_position_embeddings")
    if group is None:
        return {"rope_theta": fields.number("rope_theta", theta)}
    given = group if group.get("rope_theta") is not None else fields
    return {"rope_theta": given.number("rope_theta", theta), "rope_scaling": _scaling(group, longest)}


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return the object `rope_scaling` of a config.json, as all versions of transformers read it."""
    match scaling:
        case None:
            return None
        case LinearScaling():
            return {"rope_type": "linear", "factor": scaling.factor}
        case Llama3Scaling():
            return {
                "rope_type": "llama3",
                "factor": scaling.factor,
                "low_freq_factor": scaling.low_frequency,
                "high_freq_factor": scaling.high_frequency,
                "original_max_position_embeddings": scaling.original_length,
            }
        case YarnScaling():
            return {
                "rope_type": "yarn",
                "factor": scaling.factor,
                "original_max_position_embeddings": scaling.original_length,
                "attention_factor": scaling.magnitude,
                "beta_fast": scaling.fast_turns,
                "beta_slow": scaling.slow_turns,
                "truncate": scaling.whole_pairs,
            }


def _scaling(group: Fields, longest: int) -> RopeScaling | None:
    name = "rope_type" if group.get("rope_type") is not None or group.get("type") is None else "type"
    kind = group.get(name) or "default"
    if not group.was_read("partial_rotary_factor") and group.get("partial_rotary_factor") not in (None, 1):
        raise group.unsupported("partial_rotary_factor", group.get("partial_rotary_factor"))
    if not isinstance(kind, str) or kind not in _KNOWN:
        raise group.unsupported(name, kind, f"supported: {', '.join(_KNOWN)}")
    for field, value in group.values.items():
        if field not in (*_COMMON, *_KNOWN[kind]) and value is not None:
            raise group.unsupported(field, value)
    if kind == "default":
        return None
    factor = group.number("factor")
    if kind == "linear":
        return LinearScaling(factor)
    original = group.integer("original_max_position_embeddings", longest)
    if kind == "llama3":
        low, high = (group.number(f"{end}_freq_factor") for end in ("low", "high"))
        return Llama3Scaling(factor, original, low, high)
    return YarnScaling(
        factor,
        original,
        magnitude=_magnitude(group, factor),
        fast_turns=group.number("beta_fast", 32.0),
        slow_turns=group.number("beta_slow", 1.0),
        whole_pairs=group.flag("truncate", True),
    )


def _magnitude(group: Fields, factor: float) -> float:
    """Return YaRN's attention factor: the given one, else a(mscale) / a(mscale_all_dim), else a(1)."""

    def attention_factor(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    if group.get("attention_factor") is not None:
        return float(group.number("attention_factor"))
    if group.get("mscale") and group.get("mscale_all_dim"):
        return attention_factor(group.number("mscale")) / attention_factor(group.number("mscale_all_dim"))
    return attention_factor(1.0)


def read_windows(fields: Fields, window: int | float | None, default: Sequence[bool]) -> dict[str, Any]:
    """Return window and window_pattern of our config; `default` says which layers are local without `layer_types`."""
    types = fields.items("layer_types")
    local = list(default) if types is None else [_is_local(fields, kind) for kind in types]
    if len(local) != fields.number("num_hidden_layers"):
        raise ConfigError(
            f"{fields.where}: layer_types lists {len(local)} layers, but num_hidden_layers = "
            f"{fields.get('num_hidden_layers')}"
        )
    if not any(local):
        return {}
    if window is None:
        raise ConfigError(f"{fields.where}: sliding_window is missing, but layer_types lists {LOCAL} layers")
    return {"window": window, "window_pattern": _shortest_period(local)}


def layer_types(config: ModelConfig) -> list[str]:
    """Return the field `layer_types` of a config.json."""
    return [LOCAL if local else FULL for local in config.local_layers]


def _is_local(fields: Fields, kind: Any) -> bool:
    if kind not in (FULL, LOCAL):
        raise fields.unsupported("layer_types", kind, f"supported: {FULL}, {LOCAL}")
    return kind == LOCAL


def _shortest_period(local: Sequence[bool]) -> tuple[bool, ...]:
    """Return the shortest pattern whose repetition gives `local`."""
    lengths = range(1, len(local) + 1)
    return next(tuple(local[:n]) for n in lengths if all(local[i] == local[i % n] for i in range(len(local))))
