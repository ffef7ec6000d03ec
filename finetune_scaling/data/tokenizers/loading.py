"""Read a tokenizer from a directory, whichever kind is in it."""

import os

from finetune_scaling.data.tokenizers.hugging_face import (
    has_tokenizer,
    is_hugging_face_tokenizer,
    load_hugging_face_tokenizer,
    read_model_fields,
)
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer
from finetune_scaling.errors import DataError
from finetune_scaling.files import disk_errors, location


def load_tokenizer(path: str | os.PathLike) -> Tokenizer:
    """Read a tokenizer of this project or of a public model from its directory, or from a SentencePiece model file.

    Raises DataError that names the file if it is missing or damaged, WorkdirError if an object store cannot be read.
    """
    if not os.fspath(path):
        raise DataError(
            "tokenizer is empty: the public model was converted without its files; convert it again with "
            "--tokenizer=DIR, or give the run a tokenizer: --config.tokenizer=DIR"
        )
    with disk_errors(path, reading=True):
        directory = location(path)
        own = directory / "tokenizer"  # of a converted public model
        if own.is_dir() and not has_tokenizer(directory):
            raise DataError(f"{directory}: is a directory of a model, not of its tokenizer; give {own}")
        if directory.is_dir() and is_hugging_face_tokenizer(directory):
            return load_hugging_face_tokenizer(directory, read_model_fields(directory))
    return load_sentencepiece_tokenizer(path)
