"""Checked access to the fields of config.json and adapter_config.json."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError

# Fields that change what some family computes, with their neutral values. A family's reader has to read such a field
# unless it is absent or neutral.
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention_bias": (None, False),
    "attention_chunk_size": (None,),
    "attention_multiplier": (None,),
    "attn_logit_softcapping": (None,),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "final_logit_softcapping": (None,),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "mlp_bias": (None, False),
    "no_rope_layers": (None,),
    "num_experts": (None, 0),
    "num_local_experts": (None, 0),
    "partial_rotary_factor": (None, 1),
    "quantization_config": (None,),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_local_base_freq": (None,),
    "rope_parameters": (None,),
    "rope_scaling": (None,),
    "rotary_pct": (None, 1),
    "sliding_window": (None,),
    "use_bidirectional_attention": (None, False),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
    "use_sliding_window": (None, False),
}
FULL, LOCAL = "full_attention", "sliding_attention"  # values of `layer_types`


class Fields:
    """The fields of a config.json or of an object in it, with a record of which were read."""

    def __init__(self, values: Mapping[str, Any], where: str, model: str, group: str = ""):
        """Wrap `values`; the file `where`, the `model` that it describes and the object `group` appear in messages."""
        self.values, self.where, self.model = values, where, model
        self._group = f"{group}." if group else ""
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def was_read(self, name: str) -> bool:
        return name in self._read

    def get(self, name: str) -> Any:
        """Return the unchecked value of a field; None where it is absent."""
        self._read.add(name)
        return self.values.get(name)

    def number(self, name: str, default: float | None = None) -> int | float:
        """Return a number, or the default where the field is absent or null; without one that is an error."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            problem = "is missing" if value is None else f"= {value!r} is not a number"
            raise ConfigError(f"{self._field(name)} {problem}. Fix: use the config of {self.model}.")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer; absent or null as in `number`."""
        value = self.number(name, default)
        if isinstance(value, float) and not value.is_integer():
            raise ConfigError(f"{self._field(name)} = {value!r} is not an integer")
        return int(value)

    def positive_number(self, name: str) -> float:
        """Return a finite number above 0."""
        value = self.number(name)
        if not 0 < value < float("inf"):
            raise ConfigError(f"{self._field(name)} = {value!r} must be a finite number above 0")
        return float(value)

    def positive_integer(self, name: str) -> int:
        """Return an integer of at least 1."""
        value = self.integer(name)
        if value < 1:
            raise ConfigError(f"{self._field(name)} = {value!r} must be at least 1")
        return value

    def optional_number(self, name: str, absent: float | None = None) -> int | float | None:
        """Return a number, None where the field is null, and `absent` where it is absent."""
        value = self.get(name) if name in self else absent
        return None if value is None else self.number(name, value)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a bool, or the default where the field is absent or null."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"{self._field(name)} = {value!r} is neither true nor false")
        return value

    def items(self, name: str) -> list[Any] | None:
        """Return a list; None where the field is absent or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise ConfigError(f"{self._field(name)} = {value!r} is not a list")
        return value if value is None else list(value)

    def choice(self, names: tuple[str, ...], default: str, known: Mapping[str, str]) -> str:
        """Return our value, by the mapping `known`, for the first of these fields that is present."""
        name = next((name for name in names if self.get(name) is not None), names[0])
        value = self.get(name) or default
        if not isinstance(value, str) or value not in known:
            raise self.unsupported(name, value, f"supported: {', '.join(known)}")
        return known[value]

    def group(self, name: str) -> "Fields | None":
        """Return a field that is an object; None where it is absent or null."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self._field(name)} = {value!r} is not a JSON object")
        return Fields(value, self.where, self.model, f"{self._group}{name}")

    def unsupported(self, name: str, value: Any, reason: str = "our decoder does not compute it") -> ConfigError:
        """Return the error about a field with an unsupported value."""
        return ConfigError(f"{self._field(name)} = {value!r} is not supported: {reason}")

    def check_rest(self) -> None:
        """Raise ConfigError for an unread field that changes what is computed."""
        for name, neutral in _NEUTRAL.items():
            if not self.was_read(name) and self.get(name) not in neutral:
                raise self.unsupported(name, self.values[name])
        if not self.was_read("layer_types") and any(kind != FULL for kind in self.items("layer_types") or ()):
            raise self.unsupported("layer_types", self.get("layer_types"))

    def _field(self, name: str) -> str:
        return f"{self.where}: {self._group}{name}"


def write_choice(value: str, known: Mapping[str, str], field: str, model: str) -> str:
    """Return the family's value for ours: the inverse of `Fields.choice`. Raises ConfigError where it has none."""
    inverse = {ours: family for family, ours in known.items()}
    if value not in inverse:
        raise ConfigError(f"model.{field} = {value!r}, but {model} supports {' or '.join(inverse)}")
    return inverse[value]
