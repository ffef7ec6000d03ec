"""The tokenizer of a Hugging Face directory, or of a base converted from one: ids as AutoTokenizer gives them.

What is in front of a text (bos or nothing) is what `add_bos_token` of tokenizer_config.json says, else tokenizer.json's
post-processor, else bos, as in Llama's own code. A text ends with `eos_token`. Unlike there, no text can spell a
special token.
"""

import functools
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from finetune_scaling.data.text_tokenizer import SpecialTokens, longest_prefix
from finetune_scaling.data.tokenizers.token_models import FastTokens, SentencePieceTokens, TokenModel
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, read_json, sha256

FAST_FILE, SENTENCEPIECE_FILE, SETTINGS_FILE = "tokenizer.json", "tokenizer.model", "tokenizer_config.json"
# All that transformers reads of tokenizers.
TOKENIZER_FILES = (
    *(FAST_FILE, SENTENCEPIECE_FILE, SETTINGS_FILE, "special_tokens_map.json", "added_tokens.json", "vocab.json"),
    *("merges.txt", "chat_template.jinja"),
)
MODEL_FIELDS = "model_fields.json"  # what `load_imported_tokenizer` takes of a model's config, beside copied files
_FIELDS = ("vocab_size", "bos_token_id", "eos_token_id")


class ImportedTokenizer:
    """A `TextTokenizer` without mode tokens and sentinels."""

    pad_id = 0

    def __init__(self, model: TokenModel, special: SpecialTokens, digest: str, rows: int, continues: bool = False):
        """rows: ids that the model may write, which may be more than the tokenizer has; digest: of files and ids."""
        self._model = model
        self._rows = rows
        self._continues = continues
        self.special = special
        self.digest = digest
        self.vocab_size = model.size
        self.eos_id = special.eos_id
        self.mode_ids = special.mode_ids
        self.sentinel_ids = special.sentinel_ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ImportedTokenizer) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[str, bool]:
        return self.digest, self._continues

    @functools.cached_property
    def continuing(self) -> "ImportedTokenizer":
        """The tokenizer without the space that Llama's put in front of a text's first word."""
        return ImportedTokenizer(self._model.continuing, self.special, self.digest, self._rows, continues=True)

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone. DataError where the text is not valid Unicode."""
        return self.encode_batch([text])[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts."""
        return self._model.encode(texts)

    def decode(self, ids: Iterable[int]) -> str:
        """Text of the ids; special tokens and ids that no token has are left out."""
        return self._model.decode(int(i) for i in ids)

    def token_bytes(self) -> list[bytes]:
        """What each id adds to a text, in UTF-8: nothing for special tokens, and for ids that no token has."""
        known = self._model.token_bytes()
        return known + [b""] * (self._rows - len(known))

    def truncate(self, text: str, max_tokens: int) -> str:
        """The longest prefix of `text`, cut where a token ends, that encodes to at most `max_tokens` ids."""
        if len(self.encode(text)) <= max_tokens:
            return text
        return longest_prefix(text, self._model.ends(text), max_tokens, self.encode)


def has_tokenizer(directory: Location) -> bool:
    """Whether there is a tokenizer's file in a directory."""
    return any((directory / name).is_file() for name in (FAST_FILE, SENTENCEPIECE_FILE))


def is_imported(directory: Location) -> bool:
    """Whether a directory's tokenizer is a public model's: ours has a record of its digest, and no settings."""
    record = directory / FAST_FILE
    if (directory / MODEL_FIELDS).is_file() or not record.is_file():
        return (directory / SETTINGS_FILE).is_file() or (directory / MODEL_FIELDS).is_file()
    content = read_json(record)
    return isinstance(content, dict) and "model" in content


def read_model_fields(directory: Location) -> dict[str, Any]:
    """What a tokenizer's directory says of its model: MODEL_FIELDS, or the model's own config.json.

    Raises DataError where neither is there.
    """
    file = next((directory / name for name in (MODEL_FIELDS, "config.json") if (directory / name).is_file()), None)
    if file is None:
        raise DataError(
            f"{directory}: has the tokenizer of a public model without that model's config.json; name the directory of "
            "the whole model, or DIR/tokenizer of a converted one"
        )
    fields = read_json(file, mend="copy it again")
    found = {**fields, **fields.get("text_config", {})}
    return {name: found.get(name) for name in _FIELDS}


def load_imported_tokenizer(directory: Location, model_fields: Mapping[str, Any]) -> ImportedTokenizer:
    """Reads tokenizer.json or, where there is none, tokenizer.model, and tokenizer_config.json beside it.

    model_fields: config.json of the model that it is for; bos_token_id and eos_token_id stand in for tokens that
    tokenizer_config.json does not name. Raises DataError, naming the file and the field, where there is no tokenizer,
    its special tokens are not known, or the model has fewer embeddings than it has ids.
    """
    model, file = _read_model(directory)
    model_fields = {**model_fields, **model_fields.get("text_config", {})}  # of models that read images too
    rows = model_fields["vocab_size"]
    if rows < model.size:
        raise DataError(
            f"{file}: has {model.size} ids, but the model has embeddings of {rows} (vocab_size in its config.json); "
            "the two are not of one model"
        )
    settings = directory / SETTINGS_FILE
    reader = _SpecialTokens(directory, model, read_json(settings) if settings.is_file() else {}, model_fields)
    eos = reader.token("eos_token")
    special = SpecialTokens(reader.bos(), eos, {}, ())
    facts = [sha256(file), special.bos_id, special.eos_id]
    return ImportedTokenizer(model, special, hashlib.sha256(json.dumps(facts).encode()).hexdigest(), rows)


def _read_model(directory: Location) -> tuple[TokenModel, Location]:
    fast, slow = directory / FAST_FILE, directory / SENTENCEPIECE_FILE
    if fast.is_file():
        return FastTokens(fast.read_text(encoding="utf-8"), str(fast)), fast
    if slow.is_file():
        return SentencePieceTokens(slow.read_bytes(), str(slow)), slow
    raise DataError(
        f"{directory}: has no {FAST_FILE} and no {SENTENCEPIECE_FILE}; name the directory of the model's tokenizer: "
        "--tokenizer=DIR"
    )


class _SpecialTokens(NamedTuple):
    """Where special tokens are named."""

    directory: Location
    model: TokenModel
    settings: Mapping[str, Any]
    model_fields: Mapping[str, Any]

    def bos(self) -> int | None:
        """The one token in front of every text, if any."""
        asked = self.settings.get("add_bos_token")
        if asked is not None or self.model.front is None:
            return None if asked is False else self.token("bos_token")
        if len(self.model.front) > 1:
            raise DataError(
                f"{self.directory / FAST_FILE}: post_processor puts {len(self.model.front)} tokens in front of a text; "
                "models are read with one at most"
            )
        return next(iter(self.model.front), None)

    def token(self, name: str) -> int:
        """The id of bos_token or eos_token."""
        value = self.settings.get(name)
        text = value.get("content") if isinstance(value, Mapping) else value
        found = self.model_fields.get(f"{name}_id") if text is None else self.model.token_id(text)
        if not isinstance(found, int):
            what = "is missing" if text is None else f"= {text!r} is no token of the tokenizer beside it"
            raise DataError(f"{self.directory / SETTINGS_FILE}: {name} {what}; name the model's own")
        return found
