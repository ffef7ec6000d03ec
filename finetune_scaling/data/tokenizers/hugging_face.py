"""The tokenizer of a Hugging Face directory, or of a base converted from one: the same ids as AutoTokenizer.

A text starts with bos if tokenizer.json's post-processor says so, or without that file `add_bos_token` of
tokenizer_config.json, as in transformers 5. A text ends with `eos_token`. In contrast to transformers, no special
token is parsed in a text.
"""

import functools
import hashlib
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.added_tokens import (
    ADDED_TOKENS_FILE,
    SPECIAL_TOKENS_FILE,
    STANDARD_TOKENS,
    TOKENIZER_CONFIG_FILE,
    AddedTokens,
    read_added_tokens,
)
from finetune_scaling.data.tokenizers.chat_format import (
    ADDITIONAL_TEMPLATES,
    CHAT_TEMPLATE_FILE,
    ChatFormat,
    read_chat_format,
)
from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.data.tokenizers.subword_models import FastModel, SentencePieceModel, SubwordModel
from finetune_scaling.data.tokenizers.tokenizer_class import class_parts
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, disk_errors, read_json, read_json_object, read_text_file, sha256

FAST_FILE, SENTENCEPIECE_FILE = "tokenizer.json", "tokenizer.model"
# Patterns of all files that transformers reads a tokenizer from.
TOKENIZER_FILES = (
    FAST_FILE, SENTENCEPIECE_FILE, TOKENIZER_CONFIG_FILE, SPECIAL_TOKENS_FILE, ADDED_TOKENS_FILE, "vocab.json",
    "merges.txt", CHAT_TEMPLATE_FILE, ADDITIONAL_TEMPLATES,
)  # fmt: skip
# Files that transformers makes a tokenizer from where FAST_FILE is missing.
OTHER_TOKENIZER_FILES = (
    "vocab.json", "merges.txt", "vocab.txt", "tekken.json", "spiece.model", "spm.model", "sentencepiece.bpe.model",
    "tiktoken.model", "tokenizer.model.*",
)  # fmt: skip
GENERATION_CONFIG = "generation_config.json"
MODEL_FIELDS = "model_fields.json"  # the fields of a model that its tokenizer and exports need, next to copied files
_MODEL_CONFIG = "config.json"
_GENERATION = "generation_config"  # field with the content of GENERATION_CONFIG
_FIELDS = (
    "vocab_size", "bos_token_id", "eos_token_id", "pad_token_id", "model_type", "tokenizer_class", _GENERATION,
)  # fmt: skip


class HuggingFaceTokenizer(Tokenizer):
    """The tokenizer of a public model, without mode tokens and sentinels.

    embedding_rows: number of ids that the language model predicts, which may be more than the tokenizer has.
    """

    moves_spaces_to_target = True

    def __init__(
        self,
        model: SubwordModel,
        special_tokens: SpecialTokens,
        digest: str,
        embedding_rows: int,
        chat_format: ChatFormat | None = None,
    ):
        self._model, self._embedding_rows = model, embedding_rows
        self.special_tokens, self.special_token_ids = special_tokens, model.special_token_ids
        self.chat_format = chat_format
        self.digest = digest
        self.vocab_size = model.size

    @functools.cached_property
    def continuation(self) -> "HuggingFaceTokenizer":
        """The tokenizer without the space that Llama's tokenizer adds in front of a text (`add_prefix_space`)."""
        digest = f"{self.digest}, continuation"
        model = self._model.continuation
        return HuggingFaceTokenizer(model, self.special_tokens, digest, self._embedding_rows, self.chat_format)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode(texts)

    def max_ids(self, text: str) -> float:
        return self._model.max_ids(text)

    def encode_with_special_tokens(self, texts: Sequence[str]) -> list[list[int]]:
        return self._model.encode_with_special_tokens(texts)

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


def read_tokenizer_files(directory: Location) -> dict[str, bytes]:
    """Return the content of a tokenizer's files by their paths relative to its directory."""
    found = [file for pattern in TOKENIZER_FILES for file in directory.glob(pattern)]
    return {file.relative_to(directory).as_posix(): file.read_bytes() for file in found}


def has_other_tokenizer(directory: Location) -> bool:
    """Return whether a directory contains a tokenizer in files that `load_hugging_face_tokenizer` refuses."""
    return not has_tokenizer(directory) and any(any(directory.glob(name)) for name in OTHER_TOKENIZER_FILES)


def is_hugging_face_tokenizer(directory: Location) -> bool:
    """Return whether a directory's tokenizer is a public model's; ours has a digest record and no tokenizer config."""
    if any((directory / name).is_file() for name in (MODEL_FIELDS, TOKENIZER_CONFIG_FILE)):
        return True
    return any(  # config.json is also a file of runs, and tokenizer.json one of our tokenizers
        isinstance(content := read_json(directory / name, fix="copy it again"), dict) and field in content
        for name, field in ((_MODEL_CONFIG, "model_type"), (FAST_FILE, "model"))
        if (directory / name).is_file()
    )


def read_model_fields(directory: Location) -> dict[str, Any]:
    """Read the fields of a model that its tokenizer and exports need.

    They are in MODEL_FIELDS, or in the model's config.json and GENERATION_CONFIG in its directory. Raises DataError if
    the directory has neither, or eos_token_id is not an id of the model.
    """
    file = next((directory / name for name in (MODEL_FIELDS, _MODEL_CONFIG) if (directory / name).is_file()), None)
    if file is None:
        raise DataError(
            f"{directory}: has the tokenizer of a public model without that model's config.json; give the directory of "
            "the complete model, or DIR/tokenizer of a converted one"
        )
    fields = read_json_object(file, fix="copy it again")
    text = fields.get("text_config")  # of a multimodal model
    if not isinstance(text or {}, Mapping):
        raise DataError(f"{file}: is not the config of a model; copy it again")
    found = {**fields, **(text or {})}
    source = f"{file}: {_GENERATION}"
    if (generation := directory / GENERATION_CONFIG).is_file():
        found[_GENERATION], source = read_json_object(generation, fix="copy it again"), str(generation)
    if not isinstance(found.get(_GENERATION) or {}, Mapping):
        raise DataError(f"{source} is not a JSON object; copy it again")
    _check_end_ids(found, str(file) if found.get(_GENERATION) is None else source)
    return {name: found.get(name) for name in _FIELDS}


def _check_end_ids(model_fields: Mapping[str, Any], source: str) -> None:
    """Raise DataError, which begins with their file, if an end-of-sequence id is not an id of the model."""
    rows = model_fields.get("vocab_size")
    count = rows if isinstance(rows, int) else sys.maxsize  # another error names a size that is not a number
    if not all(_is_id(i, count) for i in _end_ids(model_fields)):
        found = _end_id_field(model_fields)
        raise DataError(
            f"{source}: eos_token_id = {found!r} is neither an id nor a list of ids below vocab_size = {rows}; "
            "correct it"
        )


def load_hugging_face_tokenizer(directory: Location, model_fields: Mapping[str, Any]) -> HuggingFaceTokenizer:
    """Read tokenizer.json, or else tokenizer.model, and the files that name special and added tokens.

    model_fields: as `read_model_fields` returns them; bos_token_id and eos_token_id are used for tokens that the
    tokenizer's files do not name, and the ids at which transformers ends a text end it here, too.

    Raises DataError, naming file and field, if there is no tokenizer, a special token is unknown, or the model has
    fewer embeddings than the tokenizer has ids.
    """
    added, config = read_added_tokens(directory)
    _check_fast_files(directory, config)
    model, file = _read_model(directory, added, config, model_fields)
    embedding_rows = model_fields["vocab_size"]
    if not isinstance(embedding_rows, int):
        raise DataError(
            f"{directory}: vocab_size = {embedding_rows!r} of the model is not a number; copy its config.json"
        )
    if embedding_rows < model.size:
        raise DataError(
            f"{file}: has {model.size} ids, but the model has {embedding_rows} embeddings (vocab_size in its "
            "config.json); give the tokenizer of the same model"
        )
    special_tokens = _special_tokens(directory, model, added, config, model_fields)
    special_tokens = special_tokens._replace(other_end_ids=_end_ids(model_fields))
    identity = json.dumps([sha256(file), special_tokens.bos_id, special_tokens.eos_id, *model.changes])
    digest = hashlib.sha256(identity.encode()).hexdigest()
    return HuggingFaceTokenizer(
        model, special_tokens, digest, embedding_rows, _chat_format(directory, model, special_tokens, added, config)
    )


def _chat_format(
    directory: Location,
    model: SubwordModel,
    special_tokens: SpecialTokens,
    added: AddedTokens,
    config: Mapping[str, Any],
) -> ChatFormat | None:
    texts: dict[int | None, str] = {token_id: text for text, token_id in model.special_token_ids.items()}
    own = {"bos_token": texts.get(special_tokens.bos_id), "eos_token": texts.get(special_tokens.eos_id)}
    named = {name: token.content for name, token in added.named.items() if name in STANDARD_TOKENS}
    texts_by_name = {name: text for name, text in own.items() if text is not None} | named
    return read_chat_format(directory, config, texts_by_name)


def _read_model(
    directory: Location, added: AddedTokens, config: Mapping[str, Any], model_fields: Mapping[str, Any]
) -> tuple[SubwordModel, Location]:
    fast, slow = directory / FAST_FILE, directory / SENTENCEPIECE_FILE
    if fast.is_file():
        model = FastModel(read_text_file(fast, fix="copy the model's own"), str(fast), added)
        return model.replaced(class_parts(model.fields, config, model_fields, directory)), fast
    if slow.is_file():
        with disk_errors(slow, reading=True):
            data = slow.read_bytes()
        pieces = SentencePieceModel(data, str(slow), added)
        _check_prefix_space(directory, pieces, config)
        return pieces, slow
    raise DataError(
        f"{directory}: has no {FAST_FILE} and no {SENTENCEPIECE_FILE}; give the directory of the model's tokenizer: "
        "--tokenizer=DIR. From other files, such as vocab.json and merges.txt, transformers writes a "
        f"{FAST_FILE}: AutoTokenizer.from_pretrained(DIR).save_pretrained(DIR)"
    )


def _check_fast_files(directory: Location, config: Mapping[str, Any]) -> None:
    """Raise DataError where versions of transformers read different files instead of FAST_FILE."""
    if (names := config.get("fast_tokenizer_files")) not in (None, [], [FAST_FILE]):
        raise DataError(
            f"{directory / TOKENIZER_CONFIG_FILE}: fast_tokenizer_files = {names!r}, but only {FAST_FILE} is read; "
            "write it again with transformers: AutoTokenizer.from_pretrained(DIR).save_pretrained(NEW), and remove the "
            "field"
        )


def _check_prefix_space(directory: Location, model: SentencePieceModel, config: Mapping[str, Any]) -> None:
    """Raise DataError where tokenizer_config.json contradicts the file about the space in front of a text."""
    asked, adds = config.get("add_prefix_space"), model.encode(["a"]) != model.continuation.encode(["a"])
    if asked not in (None, adds):
        raise DataError(
            f"{directory / TOKENIZER_CONFIG_FILE}: add_prefix_space = {asked}, but the tokenizer's file "
            f"{'adds a' if adds else 'adds no'} space in front of a text; copy both files from the same model, or set "
            "the field to what the model was trained with"
        )


def _special_tokens(
    directory: Location,
    model: SubwordModel,
    added: AddedTokens,
    config: Mapping[str, Any],
    model_fields: Mapping[str, Any],
) -> SpecialTokens:
    """Look up bos, if a text starts with it, and eos in the tokenizer's files, else in the model's config."""

    def token_id(name: str) -> int:
        token = added.named.get(name)
        found = model_fields.get(f"{name}_id") if token is None else model.token_id(token.content)
        if found is None or isinstance(found, list):
            raise DataError(f"{directory / TOKENIZER_CONFIG_FILE}: {name} is missing; set it to the model's own")
        if not _is_id(found, model_fields["vocab_size"]):
            raise DataError(
                f"{directory}: {name}_id = {found!r} of {_MODEL_CONFIG} is not an id below vocab_size = "
                f"{model_fields['vocab_size']}; correct it, or set {name} in {TOKENIZER_CONFIG_FILE}"
            )
        return found

    eos = token_id("eos_token")
    if isinstance(model, FastModel):
        return SpecialTokens(_bos_id(directory, model, eos), eos, {}, ())
    if not isinstance(add_bos := config.get("add_bos_token"), bool):
        problem = "is missing" if add_bos is None else f"= {add_bos!r} is neither"
        raise DataError(
            f"{directory / TOKENIZER_CONFIG_FILE}: add_bos_token {problem}, so whether a text starts with bos is "
            "unknown; set it to true or false, as the model was trained"
        )
    return SpecialTokens(token_id("bos_token") if add_bos else None, eos, {}, ())


def _is_id(value: Any, ids: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < ids


def _end_ids(model_fields: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the ids at which transformers' `generate` ends a text."""
    found = _end_id_field(model_fields)
    return () if found is None else tuple(found) if isinstance(found, list) else (found,)


def _end_id_field(model_fields: Mapping[str, Any]) -> Any:
    """Return eos_token_id of GENERATION_CONFIG if the model has one, or else of its config.json."""
    generation = model_fields.get(_GENERATION)
    return (model_fields if generation is None else generation).get("eos_token_id")


def _bos_id(directory: Location, model: FastModel, eos: int) -> int | None:
    """Return the id that the post-processor adds in front of a text; None if it adds none."""
    if len(model.prefix_ids) > 1 or model.suffix_ids not in ([], [eos]):  # every text ends with eos here
        raise DataError(
            f"{directory / FAST_FILE}: post_processor adds {len(model.prefix_ids)} tokens in front of a text and "
            f"{len(model.suffix_ids)} after it; change it to add at most one in front, and eos or none after it"
        )
    return next(iter(model.prefix_ids), None)
