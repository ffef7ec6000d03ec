"""The tokenizer of a Hugging Face directory, or of a base converted from one: the same ids as AutoTokenizer.

A text starts with bos if `add_bos_token` of tokenizer_config.json, or else tokenizer.json's post-processor, says so; if
neither does, it starts with bos, as in Llama's own code. A text ends with `eos_token`. In contrast to transformers, no
text can spell a special token.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from finetune_scaling.data.tokenizers.interface import SpecialTokens, longest_prefix
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


class HuggingFaceTokenizer:
    """The tokenizer of a public model: a `Tokenizer` without mode tokens and sentinels.

    digest: SHA-256 of the tokenizer's file and special ids.
    """

    pad_id = 0

    def __init__(
        self,
        model: SubwordModel,
        special_tokens: SpecialTokens,
        digest: str,
        embedding_rows: int,
        is_continuation: bool = False,
    ):
        """Wrap a subword model; the language model may predict more ids (`embedding_rows`) than the tokenizer has."""
        self._model = model
        self._embedding_rows = embedding_rows
        self._is_continuation = is_continuation
        self.special_tokens = special_tokens
        self.digest = digest
        self.vocab_size = model.size
        self.eos_id = special_tokens.eos_id

    def __eq__(self, other: object) -> bool:
        return isinstance(other, HuggingFaceTokenizer) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, bool]:
        return self.digest, self._is_continuation

    @functools.cached_property
    def continuation(self) -> "HuggingFaceTokenizer":
        """The tokenizer without the space that Llama's tokenizer adds in front of a text (`add_prefix_space`)."""
        return HuggingFaceTokenizer(
            self._model.continuation, self.special_tokens, self.digest, self._embedding_rows, is_continuation=True
        )

    def encode(self, text: str) -> list[int]:
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode(texts)

    def decode(self, ids: Iterable[int]) -> str:
        return self._model.decode(int(i) for i in ids)

    def token_bytes(self) -> list[bytes]:
        known = self._model.token_bytes()
        return known + [b""] * (self._embedding_rows - len(known))

    def truncate(self, text: str, max_tokens: int) -> str:
        if len(self.encode(text)) <= max_tokens:
            return text
        return longest_prefix(text, self._model.token_ends(text), max_tokens, self.encode)


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
    config_file = directory / TOKENIZER_CONFIG_FILE
    reader = _SpecialTokenReader(
        directory, model, read_json(config_file) if config_file.is_file() else {}, model_fields
    )
    eos = reader.token("eos_token")
    special_tokens = SpecialTokens(reader.bos(), eos, {}, ())
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


class _SpecialTokenReader(NamedTuple):
    """Looks up special tokens in the tokenizer's config, else in the model's."""

    directory: Location
    model: SubwordModel
    tokenizer_config: Mapping[str, Any]
    model_fields: Mapping[str, Any]

    def bos(self) -> int | None:
        """Return the id that starts every text, if any."""
        add_bos = self.tokenizer_config.get("add_bos_token")
        if add_bos is not None or self.model.prefix_ids is None:
            return None if add_bos is False else self.token("bos_token")
        if len(self.model.prefix_ids) > 1:
            raise DataError(
                f"{self.directory / FAST_FILE}: post_processor adds {len(self.model.prefix_ids)} tokens in front of a "
                "text; at most one is supported: change the post_processor"
            )
        return next(iter(self.model.prefix_ids), None)

    def token(self, name: str) -> int:
        """Return the id of bos_token or eos_token."""
        value = self.tokenizer_config.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        found = self.model_fields.get(f"{name}_id") if text is None else self.model.token_id(text)
        if not isinstance(found, int):
            fault = "is missing" if text is None else f"= {text!r} is not a token of this tokenizer"
            raise DataError(f"{self.directory / TOKENIZER_CONFIG_FILE}: {name} {fault}; set it to the model's own")
        return found
