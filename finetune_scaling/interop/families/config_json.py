"""Reading a public model's config.json: every field is checked, and none passed over that changes what is computed."""

from collections.abc import Mapping
from typing import Any

from finetune_scaling.errors import ConfigError

# Fields that change what is computed in some family, and the values at which they change nothing. Where a family's
# reader does not read one of them, it has to be absent or to have such a value.
_HARMLESS: dict[str, tuple[Any, ...]] = {
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
FULL, LOCAL = "full_attention", "sliding_attention"  # words of `layer_types`


class Fields:
    """The fields of a config.json, or of a group in it, and which of them were read."""

    def __init__(self, values: Mapping[str, Any], where: str, model: str, group: str = ""):
        """where: the file's name, model: what it is the config of, group: the group's name; all for messages."""
        self.values, self.where, self.model = values, where, model
        self._group = f"{group}." if group else ""
        self._read: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self.values

    def was_read(self, name: str) -> bool:
        return name in self._read

    def get(self, name: str) -> Any:
        """The value of a field as it is; None where it is absent."""
        self._read.add(name)
        return self.values.get(name)

    def number(self, name: str, default: float | None = None) -> int | float:
        """A field's number; the default where it is absent or null, which without one is an error."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            state = "is missing" if value is None else f"= {value!r} is not a number"
            raise ConfigError(f"{self._called(name)} {state}; this is not the config of a {self.model} model")
        return value

    def integer(self, name: str, default: int | None = None) -> int:
        """A field's whole number; absent or null as for `number`."""
        value = self.number(name, default)
        if isinstance(value, float) and not value.is_integer():
            raise ConfigError(f"{self._called(name)} = {value!r} is not a whole number")
        return int(value)

    def optional_number(self, name: str, absent: float | None = None) -> int | float | None:
        """A field's number, None where it is null, and `absent` where it is not there."""
        value = self.get(name) if name in self else absent
        return None if value is None else self.number(name, value)

    def flag(self, name: str, default: bool = False) -> bool:
        """A field that is true or false; the default where it is absent or null."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise ConfigError(f"{self._called(name)} = {value!r} is neither true nor false")
        return value

    def words(self, name: str) -> list[Any] | None:
        """A field that is a list; None where it is absent or null."""
        value = self.get(name)
        if value is not None and not isinstance(value, list | tuple):
            raise ConfigError(f"{self._called(name)} = {value!r} is not a list")
        return value if value is None else list(value)

    def choice(self, names: tuple[str, ...], default: str, known: Mapping[str, str]) -> str:
        """Our word for the first of these fields that is there."""
        name = next((name for name in names if self.get(name) is not None), names[0])
        value = self.get(name) or default
        if not isinstance(value, str) or value not in known:
            raise self.unsupported(name, value, f"it may be {' or '.join(known)}")
        return known[value]

    def group(self, name: str) -> "Fields | None":
        """A field that is a group of fields itself; None where it is absent or null."""
        value = self.get(name)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise ConfigError(f"{self._called(name)} = {value!r} is not a group of fields")
        return Fields(value, self.where, self.model, f"{self._group}{name}")

    def unsupported(self, name: str, value: Any, mend: str = "leave models with it out") -> ConfigError:
        """The error about a field whose value our decoder does not compute."""
        return ConfigError(f"{self._called(name)} = {value!r} is something that our decoder does not compute; {mend}")

    def check_rest(self) -> None:
        """Raises ConfigError for a field that was not read, though it changes what is computed."""
        for name, harmless in _HARMLESS.items():
            if not self.was_read(name) and self.get(name) not in harmless:
                raise self.unsupported(name, self.values[name])
        if not self.was_read("layer_types") and any(word != FULL for word in self.words("layer_types") or ()):
            raise self.unsupported("layer_types", self.get("layer_types"))

    def _called(self, name: str) -> str:
        return f"{self.where}: {self._group}{name}"


def named(value: str, known: Mapping[str, str], field: str, model: str) -> str:
    """Their word for ours: the inverse of `Fields.choice`. Raises ConfigError where a family has none."""
    written = {ours: theirs for theirs, ours in known.items()}
    if value not in written:
        raise ConfigError(f"model.{field} = {value!r}, where {model} has {' or '.join(written)}")
    return written[value]
