"""Encoding of texts that a template writes: where the text of an example is cut into prompt and target.

The ids of prompt and target together are those of the text in one piece, as the model read text in pretraining. A
byte-level BPE tokenizer, for example, writes " Haus" as one token. A prompt "German: " with the target "Haus" would end
in a lone space token, which the model has hardly ever seen before a word, so the target begins with the space instead,
whether it comes from the template or from the source.
"""

import functools
import operator
import string
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.special_tokens import check_patterns
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer

# Beginnings of targets for which a boundary must be right: letters, words, digits, punctuation, other scripts.
_BEGINNINGS = (*string.ascii_letters, "the", "The", "Der", "in", "1", "(", "\u201e", "\u0412", "\u4f60")
_MOST_MOVED = 8  # characters of whitespace; no word of a vocabulary begins with so many
_WORD = "a"  # stands for the target where only the ids of the prompt are wanted


class TextEncoder(ExampleEncoder):
    """Encodes the texts that a template writes.

    Attributes:
        spaces: The whitespace at the end of the template's input that every target begins with instead.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template):
        check_patterns(tokenizer, template.added_texts())
        self.tokenizer, self.special_tokens = tokenizer, tokenizer.special_tokens
        self.spaces = _spaces_of_target(tokenizer, _constant_end(template.input))
        self.identity = f"{len(self.spaces)} spaces in front of the target" if self.spaces else ""
        self.beginning = self.spaces + template.target.partition("{")[0]
        self._template = template

    def inputs(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        texts = [self._render(example)[0] for example in examples]
        if not self.tokenizer.moves_spaces_to_target:
            return self.tokenizer.encode_batch(texts)
        # A run of line breaks at the end of a text may have other ids than before a word.
        word = self.tokenizer.continuation.encode(_WORD)
        words = [_WORD if text[-1:].isspace() else "" for text in texts]
        ids_of_texts = self.tokenizer.encode_batch(list(map(operator.add, texts, words)))
        for i, ids in enumerate(ids_of_texts):
            if words[i]:
                ends_in_word = ids[-len(word) :] == word
                ids_of_texts[i] = ids[: -len(word)] if ends_in_word else self.tokenizer.encode(texts[i])
        return ids_of_texts

    def targets(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return self.tokenizer.continuation.encode_batch(self.target_texts(examples))

    def target_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        return [self._render(example)[1] for example in examples]

    def _render(self, example: Mapping[str, Any]) -> tuple[str, str]:
        """Return the texts of an example's prompt and target, cut where the tokenizer cuts them."""
        prompt, target = self._template.render(example)
        spaces = _spaces_of_target(self.tokenizer, prompt)
        return prompt.removesuffix(spaces), spaces + target


def _spaces_of_target(tokenizer: Tokenizer, prompt: str) -> str:
    """Return the whitespace at the end of a prompt that its tokenizer writes as a part of the target's first word.

    This is as little whitespace as possible for which prompt and target have the ids of the text in one piece, whatever
    the target begins with; none if no number of characters is right.
    """
    end = prompt[max(0, len(prompt.rstrip()) - 1) :]
    return _movable_end(tokenizer, end) if tokenizer.moves_spaces_to_target and end[-1:].isspace() else ""


@functools.lru_cache(maxsize=1024)
def _movable_end(tokenizer: Tokenizer, end: str) -> str:
    """Return `_spaces_of_target` of a prompt's last visible character and the whitespace after it."""
    trailing = len(end) - len(end.rstrip())
    for cut in range(len(end), len(end) - min(trailing, _MOST_MOVED) - 1, -1):
        if _is_boundary(tokenizer, "x" + end[:cut], end[cut:]):
            return end[cut:]
    return ""


def _is_boundary(tokenizer: Tokenizer, prompt: str, moved: str) -> bool:
    """Return whether texts can be cut after `prompt`, whichever target follows `moved`."""
    joined = tokenizer.encode_batch([prompt + moved + word for word in _BEGINNINGS])
    targets = tokenizer.continuation.encode_batch([moved + word for word in _BEGINNINGS])
    prompts = {tuple(ids[: -len(target)]) for ids, target in zip(joined, targets, strict=True)}
    return len(prompts) == 1 and all(ids[-len(target) :] == target for ids, target in zip(joined, targets, strict=True))


def _constant_end(pattern: str) -> str:
    """Return the text after the last placeholder of a pattern."""
    text = ""
    for literal, name, _, _ in string.Formatter().parse(pattern):
        text = text + literal if name is None else ""
    return text
