"""adapter_config.json of PEFT: what is written there of our methods, and what is read of it."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PROMPT_TENSOR = "prompt_embeddings"


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """LoRA's numbers by module, as PEFT keeps them: those of all modules, and those of some by pattern."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilised: bool = False

    def rank_of(self, module: str) -> int:
        """The rank of the adapter of a module."""
        return self.ranks.get(_pattern(self.ranks, module), self.rank)

    def scale_of(self, module: str) -> float:
        """What the product of a module's factors is multiplied by (rank-stabilised: Kalajdzievski, 2023)."""
        rank = self.rank_of(module)
        alpha = self.alphas.get(_pattern(self.alphas, module), self.alpha)
        return alpha / (rank**0.5 if self.rank_stabilised else rank)


@dataclasses.dataclass(frozen=True)
class PromptSettings:
    """A soft prompt of `length` embeddings of `dim` numbers."""

    length: int
    dim: int


def _pattern(patterns: Mapping[str, Any], module: str) -> str:
    """The pattern that a module's name ends with, as PEFT looks for it."""
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", module)), "")


def lora_fields(
    settings: LoraSettings, targets: Sequence[str], base: str | None, revision: str | None
) -> dict[str, Any]:
    """The fields of a LoRA adapter. base: name or directory of its base, None where no other directory has it."""
    return {
        **_common("LORA", base, revision),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "rank_pattern": dict(settings.ranks),
        "alpha_pattern": dict(settings.alphas),
        "target_modules": list(targets),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": False,
    }


def prompt_fields(
    settings: PromptSettings, model: ModelConfig, base: str | None, revision: str | None
) -> dict[str, Any]:
    """The fields of a soft prompt."""
    return {
        **_common("PROMPT_TUNING", base, revision),
        "num_virtual_tokens": settings.length,
        "token_dim": settings.dim,
        "num_transformer_submodules": 1,
        "num_attention_heads": model.heads,
        "num_layers": model.layers,
        "prompt_tuning_init": "RANDOM",
    }


def _common(kind: str, base: str | None, revision: str | None) -> dict[str, Any]:
    return {
        "peft_type": kind,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": revision,
        "inference_mode": True,
    }


# What an adapter is made by, or how it was started or trained: nothing of it bears on what is computed with it.
_IGNORED = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)
_LORA_IGNORED = frozenset(
    {"corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "lora_dropout", "lora_ga_config",
     "loftq_config", "megatron_core", "qalora_group_size", "runtime_config", "target_modules"}
)  # fmt: skip
_LORA_READ = frozenset({"r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "init_lora_weights", "bias"})
_PROMPT_READ = frozenset({"num_virtual_tokens", "token_dim", "num_transformer_submodules"})
_PROMPT_IGNORED = frozenset(
    {"num_attention_heads", "num_layers", "prompt_tuning_init", "prompt_tuning_init_text", "tokenizer_name_or_path",
     "tokenizer_kwargs"}
)  # fmt: skip
# Ways to start LoRA that leave the base as it is.
_STARTS = (None, True, False, "gaussian", "orthogonal", "eva")


def read_settings(fields: Mapping[str, Any], where: str) -> LoraSettings | PromptSettings:
    """What an adapter_config.json says. Raises ConfigError, naming `where` and the field, for what is not computed."""
    kind = fields.get("peft_type")
    if kind == "LORA":
        return _lora(fields, where)
    if kind == "PROMPT_TUNING":
        return _prompt(fields, where)
    raise ConfigError(f"{where}: peft_type = {kind!r} is not read; adapters of LORA and PROMPT_TUNING are")


def _lora(fields: Mapping[str, Any], where: str) -> LoraSettings:
    if fields.get("init_lora_weights") not in _STARTS:
        raise ConfigError(
            f"{where}: init_lora_weights = {fields['init_lora_weights']!r} changes the base, which the adapter alone "
            "does not tell; save it with path_initial_model_for_weight_conversion, which makes plain LoRA of it"
        )
    if fields.get("bias", "none") != "none":
        raise ConfigError(f"{where}: bias = {fields['bias']!r} trains biases, too; adapters are read with 'none'")
    _check_rest(fields, _IGNORED | _LORA_IGNORED | _LORA_READ, where)
    ranks, alphas = _group(fields, "rank_pattern", where), _group(fields, "alpha_pattern", where)
    return LoraSettings(
        rank=_integer(fields, "r", where),
        alpha=_number(fields, "lora_alpha", where),
        ranks={name: _integer(ranks, name, f"{where}: rank_pattern") for name in ranks},
        alphas={name: _number(alphas, name, f"{where}: alpha_pattern") for name in alphas},
        rank_stabilised=_flag(fields, "use_rslora", where),
    )


def _prompt(fields: Mapping[str, Any], where: str) -> PromptSettings:
    _check_rest(fields, _IGNORED | _PROMPT_IGNORED | _PROMPT_READ, where)
    if fields.get("num_transformer_submodules") not in (None, 1):
        raise ConfigError(
            f"{where}: num_transformer_submodules = {fields['num_transformer_submodules']!r}; prompts of decoders are "
            "read, which have 1"
        )
    return PromptSettings(_integer(fields, "num_virtual_tokens", where), _integer(fields, "token_dim", where))


def _check_rest(fields: Mapping[str, Any], known: frozenset[str], where: str) -> None:
    """Raises ConfigError for a field that is set and not known to change nothing: newer ones may change anything."""
    for name, value in fields.items():
        if name not in known and value not in (None, False, [], {}, ""):
            raise ConfigError(
                f"{where}: {name} = {value!r} is something that our adapters do not compute; train without it, or "
                "merge the adapter with peft and convert the model"
            )


def _group(fields: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where}: {name} = {value!r} is not a group of fields")
    for pattern in value:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(f"{where}: {name}: {pattern!r} is not a regular expression ({error})") from None
    return value


def _flag(fields: Mapping[str, Any], name: str, where: str) -> bool:
    value = fields.get(name)
    if value not in (None, False, True):
        raise ConfigError(f"{where}: {name} = {value!r} is neither true nor false")
    return bool(value)


def _integer(fields: Mapping[str, Any], name: str, where: str) -> int:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ConfigError(f"{where}: {name} = {value!r} must be a whole number of at least 1")
    return value


def _number(fields: Mapping[str, Any], name: str, where: str) -> float:
    value = fields.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
        raise ConfigError(f"{where}: {name} = {value!r} must be a number above 0")
    return float(value)
