"""The tokenizer that trainers save next to a PEFT adapter: its runs use the base's, which must have the same ids."""

import logging
import sys
from pathlib import Path
from typing import Any

from finetune_scaling.data.tokenizers.hugging_face import (
    has_other_tokenizer,
    has_tokenizer,
    load_hugging_face_tokenizer,
)
from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import absolute

log = logging.getLogger(__name__)

# All letters, digits, punctuation, runs of spaces and line breaks, and other scripts.
_SAMPLE = (
    "The quick brown fox jumps over the lazy dog's  1234 + 56!\n\n\tDer Fu\u00dfg\u00e4nger; \u041b\u0438\u0441\u0430 "
    "\u4f60\u597d \U0001f642"
)


def check_saved_tokenizer(directory: Path, base_tokenizer: str, embeddings: int) -> None:
    """Raise CheckpointError if the tokenizer in an adapter's directory differs from the base's; if the chat template
    alone does, log a warning.

    Args:
        directory: The adapter's directory, which may have no tokenizer.
        base_tokenizer: Directory of the base's tokenizer; empty for none.
        embeddings: Number of the base's embeddings.

    Raises:
        CheckpointError: The tokenizers differ.
        DataError: A tokenizer is damaged.
    """
    if not (base_tokenizer and (has_tokenizer(directory) or has_other_tokenizer(directory))):
        return
    own = load_tokenizer(base_tokenizer)
    fields = {"bos_token_id": own.special_tokens.bos_id, "eos_token_id": own.eos_id}
    saved = load_hugging_face_tokenizer(directory, {**fields, "vocab_size": sys.maxsize})  # compared below
    path = absolute(directory)
    saved_facts, own_facts = _facts(saved), _facts(own)
    if differing := [name for name, fact in saved_facts.items() if fact != own_facts[name]]:
        fits = saved.vocab_size <= embeddings
        fix = f"import the base with --tokenizer={path}" if fits else "merge the adapter with peft and import the model"
        raise CheckpointError(
            f"{path}: the adapter's tokenizer and the base's, {base_tokenizer}, differ in {', '.join(differing)}. Fix: "
            f"{fix}; if the adapter was trained with the base's tokenizer, remove the other one's files."
        )
    if saved.chat_format and (own.chat_format is None or saved.chat_format.template != own.chat_format.template):
        log.warning(
            "%s: the base has another chat template or none, which task.template = 'chat' uses. Fix: to use this one, "
            "import the base with --tokenizer=%s.",
            saved.chat_format.where,
            path,
        )


def _facts(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return what two tokenizers of the same model have in common, whatever kind of file they are saved in."""
    special = tokenizer.special_tokens
    return {
        "the number of ids": tokenizer.vocab_size,
        "special tokens": dict(tokenizer.special_token_ids),
        "the tokens that begin and end a text": (special.bos_id, special.eos_id),
        "the ids of a text": tokenizer.encode(_SAMPLE),
    }
