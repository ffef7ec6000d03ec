"""Rotary positions and windows in config.json, as older files say them and as those of transformers 5 do."""

import math
from collections.abc import Sequence
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import FULL, LOCAL, Fields
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.rope import LinearScaling, Llama3Scaling, RopeScaling, YarnScaling

_KNOWN = {  # fields of a group beside the type of scaling
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
    """The group that says how positions turn: older files' `rope_scaling`, which goes first where both are there."""
    older, newer = fields.group("rope_scaling"), fields.group("rope_parameters")
    return older or newer


def read_rope(fields: Fields, group: Fields | None, theta: float = 10_000.0) -> dict[str, Any]:
    """rope_theta and rope_scaling of our config; theta: where none is given.

    Raises ConfigError for a kind of scaling that our decoder does not compute.
    """
    longest = fields.integer("max_position_embeddings")
    if group is None:
        return {"rope_theta": fields.number("rope_theta", theta)}
    given = group if group.get("rope_theta") is not None else fields
    return {"rope_theta": given.number("rope_theta", theta), "rope_scaling": _scaling(group, longest)}


def write_scaling(scaling: RopeScaling | None) -> dict[str, Any] | None:
    """The group `rope_scaling` of a config.json, as all versions of transformers read it."""
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
        raise group.unsupported(name, kind, f"it may be {', '.join(_KNOWN)}")
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
    """Of YaRN: what is given, or 0.1 m ln(factor) + 1 with m = 1, or the quotient of two such with the m given."""
    of = lambda m: 0.1 * m * math.log(factor) + 1.0 if factor > 1 else 1.0  # noqa: E731
    if group.get("attention_factor") is not None:
        return float(group.number("attention_factor"))
    numerator, denominator = group.get("mscale"), group.get("mscale_all_dim")
    if numerator and denominator:
        return of(group.number("mscale")) / of(group.number("mscale_all_dim"))
    return of(1.0)


def read_windows(fields: Fields, window: int | float | None, usual: Sequence[bool]) -> dict[str, Any]:
    """window and window_pattern of our config; usual: which layers are local where `layer_types` does not say."""
    types = fields.words("layer_types")
    local = list(usual) if types is None else [_is_local(fields, word) for word in types]
    if len(local) != fields.number("num_hidden_layers"):
        raise ConfigError(
            f"{fields.where}: layer_types names {len(local)} layers, but num_hidden_layers = "
            f"{fields.get('num_hidden_layers')}"
        )
    if not any(local):
        return {}
    if window is None:
        raise ConfigError(f"{fields.where}: sliding_window is missing, but layer_types names layers that have one")
    return {"window": window, "window_pattern": _shortest(local)}


def layer_types(config: ModelConfig) -> list[str]:
    """The field `layer_types` of a config.json."""
    return [LOCAL if local else FULL for local in config.local_layers]


def _is_local(fields: Fields, word: Any) -> bool:
    if word not in (FULL, LOCAL):
        raise fields.unsupported("layer_types", word, f"they may be {FULL} or {LOCAL}")
    return word == LOCAL


def _shortest(local: Sequence[bool]) -> tuple[bool, ...]:
    """The shortest pattern that gives these when it is repeated."""
    lengths = range(1, len(local) + 1)
    return next(tuple(local[:n]) for n in lengths if all(local[i] == local[i % n] for i in range(len(local))))
