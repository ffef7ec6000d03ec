"""Checked access to the fields of config.json and adapter_config.json."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError

# Fields that change what some family computes. A family's reader has to read such a field unless it is absent or null,
# or has its neutral value: false or 0, of the second group 1.
_OFF = (
    "attention_bias", "attention_chunk_size", "attention_multiplier", "attn_logit_softcapping", "clip_qkv",
    "final_logit_softcapping", "mlp_bias", "no_rope_layers", "num_experts", "num_local_experts", "quantization_config",
    "query_pre_attn_scalar", "rope_local_base_freq", "rope_parameters", "rope_scaling", "sliding_window",
    "use_bidirectional_attention", "use_parallel_residual", "use_qk_norm", "use_sliding_window",
)  # fmt: skip
_ONE = (
    "embedding_multiplier", "logit_scale", "logits_scaling", "partial_rotary_factor", "residual_multiplier",
    "rotary_pct",
)  # fmt: skip
FULL, LOCAL = "full_attention", "sliding_attention"  # values of `layer_types`


class Fields:
    """The fields of a config.json or of an object in it, with a record of which were read."""

    def __init__(self, values: Mapping[str, Any], where: str, group: str = ""):
        """Wrap `values`; the file `where` and the object `group` appear in messages."""
        self.values, self.where = values, where
        self._group = f"{group}." if group else ""
        self._read: set[str] = set()

    def was_read(self, name: str) -> bool:
        """Return whether a field was read."""
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
            raise self._invalid(name, problem)
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """Return an integer; absent or null as in `number`."""
        value = self.number(name, default)
        if isinstance(value, float) and not value.is_integer():
            raise self._invalid(name, f"= {value!r} is not an integer")
        return int(value)

    def positive_number(self, name: str) -> float:
        """Return a finite number above 0."""
        value = self.number(name)
        if not 0 < value < float("inf"):
            raise self._invalid(name, f"= {value!r} must be a finite number above 0")
        return float(value)

    def positive_integer(self, name: str) -> int:
        """Return an integer of at least 1."""
        value = self.integer(name)
        if value < 1:
            raise self._invalid(name, f"= {value!r} must be at least 1")
        return value

    def optional_number(self, name: str) -> int | float | None:
        """Return a number; None where the field is absent or null."""
        return None if self.get(name) is None else self.number(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """Return a bool, or the default where the field is absent or null."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self._invalid(name, f"= {value!r} is neither true nor false")
        return value

    def items(self, name: str) -> list[Any] | None:
        """Return a list; None where the field is absent or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise self._invalid(name, f"= {value!r} is not a list")
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
            raise self._invalid(name, f"= {value!r} is not a JSON object")
        return Fields(value, self.where, f"{self._group}{name}")

    def unsupported(self, name: str, value: Any, reason: str = "the decoder does not implement it") -> ConfigError:
        """Return the error about a field with an unsupported value."""
        return ConfigError(f"{self._field(name)} = {value!r} is not supported: {reason}")

    def check_rest(self) -> None:
        """Raise ConfigError for an unread field that changes what is computed."""
        for name in (*_OFF, *_ONE):
            neutral = (None, 1) if name in _ONE else (None, False)
            if not self.was_read(name) and self.get(name) not in neutral:
                raise self.unsupported(name, self.values[name])
        if self.values.get("is_causal", True) is not True:  # transformers takes null as false
            raise self.unsupported("is_causal", self.values["is_causal"])
        if not self.was_read("layer_types") and any(kind != FULL for kind in self.items("layer_types") or ()):
            raise self.unsupported("layer_types", self.get("layer_types"))

    def _invalid(self, name: str, problem: str) -> ConfigError:
        return ConfigError(f"{self._field(name)} {problem}. Fix: copy the file again.")

    def _field(self, name: str) -> str:
        return f"{self.where}: {self._group}{name}"


def integral(value: float) -> float | int:
    """Return an integral float as int, as Hugging Face writes it."""
    return int(value) if value == int(value) else value
