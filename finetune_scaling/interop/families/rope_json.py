"""Rotary embeddings and attention windows in config.json, in the formats before and since transformers 5."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.rope import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

_ORIGINAL = "original_max_position_embeddings"
# Each type of scaling: our class, and the fields of config.json by ours.
_SCALINGS: dict[str, tuple[Callable[..., RopeScaling | None], dict[str, str]]] = {
    "default": (lambda: None, {}),
    "linear": (LinearScaling, {"factor": "factor"}),
    "llama3": (
        Llama3Scaling,
        {"factor": "factor", "original_length": _ORIGINAL, "low_frequency": "low_freq_factor",
         "high_frequency": "high_freq_factor"},
    ),
    "yarn": (
        YarnScaling,
        {"factor": "factor", "original_length": _ORIGINAL, "magnitude": "attention_factor", "fast_turns": "beta_fast",
         "slow_turns": "beta_slow", "whole_pairs": "truncate"},
    ),
}  # fmt: skip
_COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
_YARN = ("mscale", "mscale_all_dim")  # further fields of yarn


def rope_group(fields: Fields) -> Fields | None:
    """Return the object with the RoPE parameters; the older `rope_scaling` takes precedence, as in transformers."""
    return fields.group("rope_scaling") or fields.group("rope_parameters")


def read_rope(fields: Fields, theta: float = 10_000.0) -> dict[str, Any]:
    """Return rope_theta (default `theta`) and rope_scaling of our config; raises as `read_rope_group` does."""
    return read_rope_group(fields, rope_group(fields), theta)


def read_rope_group(fields: Fields, group: Fields | None, theta: float) -> dict[str, Any]:
    """Return the same from the object with the RoPE parameters, if there is one.

    Raises ConfigError for a type of scaling that the decoder does not implement.
    """
    longest = fields.integer("max_position_embeddings")
    if group is None:
        return {"rope_theta": fields.number("rope_theta", theta)}
    if (outer := fields.get(_ORIGINAL)) not in (None, group.get(_ORIGINAL)):
        raise fields.unsupported(_ORIGINAL, outer, "Fix: move it into the object with rope_type.")
    given = group if group.get("rope_theta") is not None else fields
    return {"rope_theta": given.number("rope_theta", theta), "rope_scaling": _scaling(group, longest)}


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """Return the object `rope_scaling` of a config.json, as all versions of transformers read it."""
    if scaling is None:
        return None
    _, names = _SCALINGS[scaling.kind]
    return {"rope_type": scaling.kind, **{name: getattr(scaling, field) for field, name in names.items()}}


def _scaling(group: Fields, longest: int) -> RopeScaling | None:
    kind = group.choice(("rope_type", "type"), "default", {name: name for name in _SCALINGS})
    if not group.was_read("partial_rotary_factor") and group.get("partial_rotary_factor") not in (None, 1):
        raise group.unsupported("partial_rotary_factor", group.get("partial_rotary_factor"))
    make, names = _SCALINGS[kind]
    known = {*_COMMON, *names.values(), *(_YARN if kind == "yarn" else ())}
    for field, value in group.values.items():
        if field not in known and value is not None:
            raise group.unsupported(field, value)
    defaults: dict[str, Any] = {_ORIGINAL: longest, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": True}
    if kind == "yarn":
        defaults["attention_factor"] = _attention_factor(group)
    read: dict[str, Callable[..., Any]] = {_ORIGINAL: group.integer, "truncate": group.flag}
    values = {field: read.get(name, group.number)(name, defaults.get(name)) for field, name in names.items()}
    return make(**values)


def _attention_factor(group: Fields) -> float:
    """Return YaRN's attention factor where it is not given: a(mscale) / a(mscale_all_dim), else a(1)."""
    factor = group.number("factor")

    def attention_factor(m: float) -> float:
        return 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0

    if group.get("mscale") and group.get("mscale_all_dim"):
        return attention_factor(group.number("mscale")) / attention_factor(group.number("mscale_all_dim"))
    return attention_factor(1.0)


def read_windows(fields: Fields, default: Sequence[bool]) -> dict[str, Any]:
    """Return window and window_pattern of our config; `default` says which layers are local without `layer_types`."""
    window = fields.optional_number("sliding_window")
    types = fields.items("layer_types")
    for kind in types or ():
        if kind not in (FULL, LOCAL):
            raise fields.unsupported("layer_types", kind, f"supported: {FULL}, {LOCAL}")
    local = list(default) if types is None else [kind == LOCAL for kind in types]
    if len(local) != fields.number("num_hidden_layers"):
        raise ConfigError(
            f"{fields.where}: layer_types lists {len(local)} layers, but num_hidden_layers = "
            f"{fields.get('num_hidden_layers')}. Fix: copy the file again."
        )
    if not any(local):
        return {}
    if window is None:
        raise ConfigError(
            f"{fields.where}: sliding_window is missing, but layer_types lists {LOCAL} layers. Fix: copy the file "
            "again."
        )
    return {"window": window, "window_pattern": _shortest_period(local)}


def layer_types(config: ModelConfig) -> list[str]:
    """Return the field `layer_types` of a config.json."""
    return [LOCAL if local else FULL for local in config.local_layers]


def _shortest_period(local: Sequence[bool]) -> tuple[bool, ...]:
    """Return the shortest pattern whose repetition gives `local`."""
    lengths = range(1, len(local) + 1)
    return next(tuple(local[:n]) for n in lengths if all(local[i] == local[i % n] for i in range(len(local))))
