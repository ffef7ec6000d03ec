"""Special tokens that are spelled in a template or in data, where they are plain text to a model."""

import collections
import functools
import logging
import re
from collections.abc import Iterable, Mapping

from finetune_scaling.data.tokenizers.interface import Tokenizer
from finetune_scaling.errors import ConfigError

log = logging.getLogger(__name__)

# Special tokens of widespread models. In the texts of other models they are most likely left over from another format.
_WIDESPREAD = (
    "<s>", "</s>", "<bos>", "<eos>", "<pad>", "<unk>", "<|endoftext|>", "<|im_start|>", "<|im_end|>",
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
    "<start_of_turn>", "<end_of_turn>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "[INST]", "[/INST]",
    "<<SYS>>", "<</SYS>>",
)  # fmt: skip


def check_patterns(tokenizer: Tokenizer, patterns: Mapping[str, str]) -> None:
    """Raise ConfigError if a pattern of a template, by its field, spells a special token of the tokenizer."""
    own = frozenset(tokenizer.special_token_ids)
    for name, pattern in patterns.items():
        for token in sorted(set(_expression(frozenset(_WIDESPREAD)).findall(pattern)) - own):
            _warn_of_other_token(name, token)
        found = next((match[0] for match in _expression(own).finditer(pattern)), None)
        if found is not None:
            chat = tokenizer.chat_format is not None
            raise ConfigError(
                f"template.{name} spells the special token {found!r}, which would be plain text in the prompt. Fix: "
                "remove it, as the tokens that begin and end a text are added to every example"
                + ("; for the model's own chat format set task.template = 'chat'" if chat else "")
            )


@functools.cache  # once per process
def _warn_of_other_token(name: str, token: str) -> None:
    log.warning(
        "template.%s contains %s, which is no special token of this model's tokenizer: it is plain text to the model",
        name,
        token,
    )


def spelled_special_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int]:
    """Return the number of texts that spell each special token, of this tokenizer or of widespread ones."""
    expression = _expression(frozenset(tokenizer.special_token_ids) | frozenset(_WIDESPREAD))
    counts = collections.Counter(token for text in texts for token in set(expression.findall(text)))
    return dict(counts.most_common())


@functools.lru_cache(maxsize=16)
def _expression(tokens: frozenset[str]) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")
