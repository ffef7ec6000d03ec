"""Special tokens that a template or data contain, where they are plain text to a model."""

import collections
import functools
import itertools
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
    "<<SYS>>", "<</SYS>>", "[BOS]", "[EOS]", "[CLS]", "[SEP]", "[PAD]", "[MASK]", "[UNK]",
)  # fmt: skip
_FORMS = (r"<\|[^|<>\s]{1,60}\|>", r"<\uff5c[^\uff5c<>\s]{1,60}\uff5c>")  # of others, such as <|eom_id|>
_SHOWN = 10  # tokens in a warning


def check_patterns(tokenizer: Tokenizer, patterns: Mapping[str, str], *, in_chat: bool = False) -> None:
    """Raise ConfigError if a pattern of a template, by its field, contains a special token of the tokenizer.

    in_chat: the patterns are those of messages in the model's own chat format, where they would be encoded as tokens.
    """
    own = frozenset(tokenizer.special_token_ids)
    for name, pattern in patterns.items():
        for token in sorted(set(_expression(frozenset(_WIDESPREAD), _FORMS).findall(pattern)) - own):
            _warn_of_other_token(name, token)
        found = next((match[0] for match in _expression(own).finditer(pattern)), None)
        if found is not None:
            if in_chat:
                raise ConfigError(
                    f"{name} contains the special token {found!r}, which would be this token within a message. Fix: "
                    "remove it, as the model's chat template writes its special tokens itself"
                )
            chat = tokenizer.chat_format is not None
            raise ConfigError(
                f"{name} contains the special token {found!r}, which would be plain text in the prompt. Fix: "
                "remove it, as the tokens that begin and end a text are added to every example"
                + ("; for the model's own chat format set task.template = 'chat'" if chat else "")
            )


@functools.cache  # once per process
def _warn_of_other_token(name: str, token: str) -> None:
    log.warning(
        "%s contains %s, which is no special token of this model's tokenizer: it is plain text to the model",
        name,
        token,
    )


def count_special_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, int]:
    """Return the number of texts that contain each special token, of this tokenizer or of widespread ones."""
    counts = collections.Counter({token: len(found) for token, found in find_special_tokens(tokenizer, texts).items()})
    return dict(counts.most_common())


def find_special_tokens(tokenizer: Tokenizer, texts: Iterable[str]) -> dict[str, list[int]]:
    """Return the positions of the texts that contain each special token, of this tokenizer or of widespread ones."""
    expression = _expression(frozenset(tokenizer.special_token_ids) | frozenset(_WIDESPREAD), _FORMS)
    found = collections.defaultdict(list)
    for position, text in enumerate(texts):
        for token in set(expression.findall(text)):
            found[token].append(position)
    return dict(found)


def warn_of_special_tokens(counts: Mapping[str, int], texts: str, effect: str) -> None:
    """Warn of special tokens that texts contain.

    counts: the number of texts that contain each token. texts: what they are, such as "3 documents". effect: what such
    a token is to the model.
    """
    numbers = ", ".join(f"{token} in {count:,}" for token, count in itertools.islice(counts.items(), _SHOWN))
    more = f" and {len(counts) - _SHOWN} more" if len(counts) > _SHOWN else ""
    log.warning(
        "%s: texts contain special tokens (%s%s), which are %s. The tokens that begin and end a text are added by "
        "themselves: if they are left over from another format, remove them from the data",
        texts, numbers, more, effect,
    )  # fmt: skip


@functools.lru_cache(maxsize=16)
def _expression(tokens: frozenset[str], forms: tuple[str, ...] = ()) -> re.Pattern[str]:
    longest_first = sorted(tokens, key=lambda token: (-len(token), token))
    return re.compile("|".join([*map(re.escape, longest_first), *forms]) or "(?!)")
