"""What to say about a model of no family that is read: which family is nearest, and what differs from it."""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.family import Family

# Fields that say nothing of what a decoder computes from tokens.
_ASIDE = {
    "_name_or_path", "architectures", "attention_dropout", "attn_implementation", "auto_map", "bos_token_id",
    "cache_implementation", "classifier_dropout", "dtype", "embd_pdrop", "eos_token_id", "hidden_dropout", "id2label",
    "is_decoder", "label2id", "model_type", "pad_token_id", "pretraining_tp", "resid_pdrop", "tokenizer_class",
    "torch_dtype", "transformers_version", "unk_token_id", "use_cache",
}  # fmt: skip
_TOLD = 4  # fields that a message names


class _Distance(NamedTuple):
    """How far a config.json is from a family: smaller is nearer."""

    unread: int  # fields of the file that the family does not have
    refused: bool
    unlike: float  # of the two names


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
    model_type = fields.get("model_type", "")
    name = f"{where}: model_type = {model_type!r}" if model_type else f"{where}: model_type is missing, which"
    message = f"{name} is of no family that is read ({', '.join(family.model_type for family in known)})"
    _, nearest, differences = min((_compare(fields, family, where) for family in known), key=lambda found: found[0])
    return ConfigError(f"{message}; the nearest is {nearest}, {differences}")


def _compare(fields: Mapping[str, Any], family: Family, where: str) -> tuple[_Distance, str, str]:
    """The distance, the family, and what differs, in words."""
    watched, refusal = _Watched(fields), ""
    try:
        family.read_config(watched, where)
    except ConfigError as error:
        refusal = str(error).removeprefix(f"{where}: ")
    unread = sorted(name for name in _telling(fields) if name not in watched.asked)
    unlike = 1 - difflib.SequenceMatcher(None, str(fields.get("model_type", "")), family.model_type).ratio()
    distance = _Distance(len(unread) + 3 * bool(refusal), bool(refusal), unlike)
    return distance, family.model_type, _words(unread, refusal)


def _telling(fields: Mapping[str, Any]) -> Iterator[str]:
    return (name for name, value in fields.items() if name not in _ASIDE and value is not None)


def _words(unread: list[str], refusal: str) -> str:
    told = ", ".join(unread[:_TOLD]) + (f" and {len(unread) - _TOLD} more" if len(unread) > _TOLD else "")
    parts = [f"which has no {told}"] if unread else []
    parts += [f"to which the file is no config ({refusal})"] if refusal else []
    return " and ".join(parts) or (
        "of which it has all fields and no others; if it computes the same, set model_type to that"
    )
