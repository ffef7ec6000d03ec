"""The error about a model of an unsupported family: it names the nearest supported family and the differences."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family

# Fields that do not change what a decoder computes from tokens.
_IRRELEVANT = {
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id",
    "hidden_dropout", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "max_window_layers", "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
    "problem_type", "resid_pdrop", "return_dict", "tokenizer_class", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache",
}  # fmt: skip
_MAX_LISTED = 4  # fields that a message names
# Distances in units of one unknown field: a config that the family cannot read, and an entirely different name.
_UNREADABLE_DISTANCE, _NAME_DISTANCE = 3, 6


class _Comparison(NamedTuple):
    distance: float  # in unknown fields
    family: str
    differences: str


class _RecordingFields(dict):
    """Config fields that record which of them were read."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__(fields)
        self.read: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.read.add(name)
        return super().get(name, default)


def unsupported_model_type(fields: Mapping[str, Any], families: Iterable[Family], where: str) -> ConfigError:
    """Return the error about a config.json whose model_type belongs to none of the families."""
    families = list(families)
    names = ", ".join(family.model_type for family in families)
    if not fields.get("model_type"):
        return ConfigError(f"{where}: model_type is missing. Fix: set it to one of {names}.")
    nearest = min((_compare(fields, family, where) for family in families), key=lambda found: found.distance)
    return ConfigError(
        f"{where}: model_type = {fields['model_type']!r} is not supported (supported: {names}). The nearest family is "
        f"{nearest.family}: {nearest.differences}"
    )


def _compare(fields: Mapping[str, Any], family: Family, where: str) -> _Comparison:
    recording, error_message = _RecordingFields(fields), ""
    try:
        family.read_config(recording, where)
    except ConfigError as error:
        error_message = str(error).removeprefix(f"{where}: ")
    relevant = (name for name, value in fields.items() if name not in _IRRELEVANT and value is not None)
    unknown = sorted(name for name in relevant if name not in recording.read)
    dissimilarity = 1 - difflib.SequenceMatcher(None, str(fields["model_type"]), family.model_type).ratio()
    distance = len(unknown) + _UNREADABLE_DISTANCE * bool(error_message) + _NAME_DISTANCE * dissimilarity
    return _Comparison(distance, family.model_type, _describe(unknown, error_message))


def _describe(unknown: list[str], error_message: str) -> str:
    if error_message:  # reading stopped there, so `unknown` is incomplete
        return f"reading the config as that family fails: {error_message}"
    if not unknown:
        return "it has the same fields, so the model's code must differ."
    more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
    return f"it has no {', '.join(unknown[:_MAX_LISTED])}{more}."
