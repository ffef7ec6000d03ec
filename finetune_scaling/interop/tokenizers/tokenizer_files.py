"""Tokenizer files of an exported model: a public tokenizer's own, or a SentencePiece model as tokenizer.json."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling.data.tokenizers.hugging_face import (
    FAST_FILE,
    TOKENIZER_CONFIG_FILE,
    is_hugging_face_tokenizer,
    load_hugging_face_tokenizer,
    read_model_fields,
    read_tokenizer_files,
)
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import (
    SentencePieceTokenizer,
    load_sentencepiece_tokenizer,
)
from finetune_scaling.errors import DataError
from finetune_scaling.files import Location, location
from finetune_scaling.interop.tokenizers.sentencepiece_export import fast_tokenizer
from finetune_scaling.strict_json import format_json


@dataclasses.dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer's part of an exported model.

    Attributes:
        files: Files by path relative to the model's directory.
        special_ids: Values of bos_token_id, eos_token_id and pad_token_id that exist; a public model's own.
        reason: Why there are no files.
        generation: Content of the public model's generation_config.json, if it has one.
        end_ids: All ids that end a text.
    """

    files: Mapping[str, bytes]
    special_ids: Mapping[str, Any]
    reason: str = ""
    generation: Mapping[str, Any] | None = None
    end_ids: tuple[int, ...] = ()


def tokenizer_files(directory: str, vocab_size: int) -> TokenizerFiles:
    """Return the files of the tokenizer in a directory, for a model with `vocab_size` embeddings.

    A SentencePiece tokenizer without an exact tokenizer.json has no files, but a reason.

    Raises:
        DataError: The tokenizer is damaged, or has more ids than the model has embeddings.
    """
    if not directory:
        return TokenizerFiles({}, {}, "the run has no tokenizer")
    source = location(directory)
    if is_hugging_face_tokenizer(source):
        return _copy(source, vocab_size)
    tokenizer = load_sentencepiece_tokenizer(directory)
    specials = {"bos_token_id": tokenizer.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": tokenizer.pad_id}
    try:
        return TokenizerFiles(_export(tokenizer), specials)
    except DataError as error:
        return TokenizerFiles({}, specials, str(error))


def _copy(directory: Location, vocab_size: int) -> TokenizerFiles:
    fields = read_model_fields(directory)
    tokenizer = load_hugging_face_tokenizer(directory, {**fields, "vocab_size": vocab_size})
    own = {"bos_token_id": tokenizer.special_tokens.bos_id, "eos_token_id": tokenizer.eos_id, "pad_token_id": None}
    specials = {name: i if fields[name] is None else fields[name] for name, i in own.items()}
    return TokenizerFiles(
        read_tokenizer_files(directory),
        {name: i for name, i in specials.items() if i is not None},
        generation=fields["generation_config"],
        end_ids=tokenizer.special_tokens.end_ids,
    )


def _export(tokenizer: SentencePieceTokenizer) -> dict[str, bytes]:
    fast = fast_tokenizer(tokenizer)
    special_tokens = {"bos_token": tokenizer.bos_id, "eos_token": tokenizer.eos_id, "unk_token": tokenizer.unk_id,
             "pad_token": tokenizer.pad_id}  # fmt: skip
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **{name: fast.id_to_token(i) for name, i in special_tokens.items()},
        "add_bos_token": True,
        "split_special_tokens": True,  # no text is parsed as one
        "clean_up_tokenization_spaces": False,
    }
    text = format_json(settings, indent=2) + "\n"
    return {FAST_FILE: fast.to_str(pretty=True).encode(), TOKENIZER_CONFIG_FILE: text.encode()}
