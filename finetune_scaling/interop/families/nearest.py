"""What to say about a model of no family that is read: which family is nearest, and what differs from it."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import Family

# Fields that say nothing of what a decoder computes from tokens.
_ASIDE = {
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "chunk_size_feed_forward", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id",
    "hidden_dropout", "id2label", "initializer_range", "is_decoder", "is_encoder_decoder", "label2id",
    "max_window_layers", "model_type", "output_attentions", "output_hidden_states", "pad_token_id", "pretraining_tp",
    "problem_type", "resid_pdrop", "return_dict", "tokenizer_class", "torch_dtype", "transformers_version",
    "unk_token_id", "use_cache",
}  # fmt: skip
_TOLD = 4  # fields that a message names
_REFUSAL, _NAME = 3, 6  # what weighs as much as so many fields: not to be readable as that family; quite another name


class _Nearness(NamedTuple):
    """How far a config.json is from a family, in fields, and what differs, in words."""

    distance: float
    family: str
    differences: str


class _Watched(dict):
    """Fields that remember which of them were asked for."""

    def __init__(self, fields: Mapping[str, Any]):
        super().__init__(fields)
        self.asked: set[str] = set()

    def get(self, name: str, default: Any = None) -> Any:
        self.asked.add(name)
        return super().get(name, default)


def unknown_model(fields: Mapping[str, Any], families: Iterable[Family], where: str) -> ConfigError:
    """The error about a config.json whose model_type is none of the families'."""
    known = list(families)
    names = ", ".join(family.model_type for family in known)
    if not fields.get("model_type"):
        return ConfigError(f"{where}: model_type is missing; families that are read are {names}")
    nearest = min((_compare(fields, family, where) for family in known), key=lambda found: found.distance)
    return ConfigError(
        f"{where}: model_type = {fields['model_type']!r} is of no family that is read ({names}); the nearest is "
        f"{nearest.family}, {nearest.differences}"
    )


def _compare(fields: Mapping[str, Any], family: Family, where: str) -> _Nearness:
    watched, refusal = _Watched(fields), ""
    try:
        family.read_config(watched, where)
    except ConfigError as error:
        refusal = str(error).removeprefix(f"{where}: ")
    unread = sorted(name for name in _telling(fields) if name not in watched.asked)
    unlike = 1 - difflib.SequenceMatcher(None, str(fields["model_type"]), family.model_type).ratio()
    distance = len(unread) + _REFUSAL * bool(refusal) + _NAME * unlike
    return _Nearness(distance, family.model_type, _words(unread, refusal))


def _telling(fields: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, value in fields.items() if name not in _ASIDE and value is not None)


def _words(unread: list[str], refusal: str) -> str:
    if refusal:  # where reading broke off, so that not all that was not read is unknown to the family
        return f"as which it cannot be read: {refusal}"
    if not unread:
        return "which has the same fields: what differs is not in the file, but in the model's code"
    more = f" and {len(unread) - _TOLD} more" if len(unread) > _TOLD else ""
    return f"which has no {', '.join(unread[:_TOLD])}{more}"
