"""The tokenizer of a Hugging Face directory, or of a base converted from one: the same ids as AutoTokenizer.

A text starts with bos if `add_bos_token` of tokenizer_config.json, or else tokenizer.json's post-processor, says so; if
neither does, it starts with bos, as in Llama's own code. A text ends with `eos_token`. In contrast to transformers, no
text can spell a special token.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.data.tokenizers.subword_models import FastModel, SentencePieceModel, SubwordModel
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, read_json, sha256

FAST_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
TOKENIZER_CONFIG_FILE = "tokenizer_config.json"
# All files that transformers reads a tokenizer from.
TOKENIZER_FILES = (
    FAST_FILE, SENTENCEPIECE_FILE, TOKENIZER_CONFIG_FILE, "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja",
)  # fmt: skip
MODEL_FIELDS = "model_fields.json"  # the fields of a model's config that its tokenizer needs, next to copied files
_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id")


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a public model, without mode tokens and sentinels.

    embedding_rows: number of ids that the language model predicts, which may be more than the tokenizer has.
    """

    joins_space_to_word = True

    def __init__(self, model: SubwordModel, special_tokens: SpecialTokens, digest: str, embedding_rows: int):
        self._model, self._embedding_rows = model, embedding_rows
        self.special_tokens = special_tokens
        self.digest = digest
        self.vocab_size = model.size

    @functools.cached_property
    def continuation(self) -> "HuggingFaceTokenizer":
        """The tokenizer without the space that Llama's tokenizer adds in front of a text (`add_prefix_space`)."""
        digest = f"{self.digest}, continuation"
        return HuggingFaceTokenizer(self._model.continuation, self.special_tokens, digest, self._embedding_rows)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode(texts)

    def token_ends(self, text: str) -> list[int]:
        return self._model.token_ends(text)

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode(int(i) for i in ids)

    def token_bytes(self) -> list[bytes]:
        known = self._model.token_bytes()
        return known + [b""] * (self._embedding_rows - len(known))


def has_tokenizer(directory: Location) -> bool:
    """Return whether a directory contains a tokenizer file."""
    return any((directory / name).is_file() for name in (FAST_FILE, SENTENCEPIECE_FILE))


def is_hugging_face_tokenizer(directory: Location) -> bool:
    """Return whether a directory's tokenizer is a public model's; ours has a digest record and no tokenizer config."""
    record = directory / FAST_FILE
    if (directory / MODEL_FIELDS).is_file() or not record.is_file():
        return (directory / TOKENIZER_CONFIG_FILE).is_file() or (directory / MODEL_FIELDS).is_file()
    content = read_json(record)
    return isinstance(content, dict) and "model" in content


def read_model_fields(directory: Location) -> dict[str, Any]:
    """Read the model fields that a tokenizer needs, from MODEL_FIELDS or the model's config.json in its directory.

    Raises DataError if the directory has neither.
    """
    file = next((directory / name for name in (MODEL_FIELDS, "config.json") if (directory / name).is_file()), None)
    if file is None:
        raise DataError(
            f"{directory}: has the tokenizer of a public model without that model's config.json; give the directory of "
            "the complete model, or DIR/tokenizer of a converted one"
        )
    fields = read_json(file, fix="copy it again")
    found = {**fields, **fields.get("text_config", {})}
    return {name: found.get(name) for name in _FIELDS}


def load_hugging_face_tokenizer(directory: Location, model_fields: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """Read tokenizer.json, or else tokenizer.model, and tokenizer_config.json.

    model_fields: config.json of the model; its bos_token_id and eos_token_id are used for tokens that
    tokenizer_config.json does not name. Raises DataError, naming file and field, if there is no tokenizer, a special
    token is unknown, or the model has fewer embeddings than the tokenizer has ids.
    """
    model, file = _read_model(directory)
    model_fields = {**model_fields, **model_fields.get("text_config", {})}  # text part of multimodal models
    embedding_rows = model_fields["vocab_size"]
    if embedding_rows < model.size:
        raise DataError(
            f"{file}: has {model.size} ids, but the model has {embedding_rows} embeddings (vocab_size in its "
            "config.json); give the tokenizer of the same model"
        )
    special_tokens = _special_tokens(directory, model, model_fields)
    identity = json.dumps([sha256(file), special_tokens.bos_id, special_tokens.eos_id])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return HuggingFaceTokenizer(model, special_tokens, digest, embedding_rows)


def _read_model(directory: Location) -> tuple[SubwordModel, Location]:
    fast, slow = directory / FAST_FILE, directory / SENTENCEPIECE_FILE
    if fast.is_file():
        return FastModel(fast.read_text(encoding="utf-8"), str(fast)), fast
    if slow.is_file():
        return SentencePieceModel(slow.read_bytes(), str(slow)), slow
    raise DataError(
        f"{directory}: has no {FAST_FILE} and no {SENTENCEPIECE_FILE}; give the directory of the model's tokenizer: "
        "--tokenizer=DIR"
    )


def _special_tokens(directory: Location, model: SubwordModel, model_fields: Mapping[str, Any]) -> SpecialTokens:
    """Look up bos, if a text starts with it, and eos in the tokenizer's config, else in the model's."""
    file = directory / TOKENIZER_CONFIG_FILE
    config = read_json(file) if file.is_file() else {}

    def token_id(name: str) -> int:
        value = config.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        found = model_fields.get(f"{name}_id") if text is None else model.token_id(text)
        if not isinstance(found, int):
            fault = "is missing" if text is None else f"= {text!r} is not a token of this tokenizer"
            raise DataError(f"{file}: {name} {fault}; set it to the model's own")
        return found

    add_bos = config.get("add_bos_token")
    if add_bos is not None or model.prefix_ids is None:
        bos = None if add_bos is False else token_id("bos_token")
    elif len(model.prefix_ids) <= 1:
        bos = next(iter(model.prefix_ids), None)
    else:
        raise DataError(
            f"{directory / FAST_FILE}: post_processor adds {len(model.prefix_ids)} tokens in front of a text; change "
            "it to add at most one"
        )
    return SpecialTokens(bos, token_id("eos_token"), {}, ())
