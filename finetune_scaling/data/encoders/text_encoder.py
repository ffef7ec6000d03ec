"""Encoding of texts that a template writes: where the text of an example is cut into prompt and target.

The ids of prompt and target together are those of the text in one piece, as the model read text in pretraining. A
byte-level BPE tokenizer, for example, writes " Haus" as one token. A prompt "German: " with the target "Haus" would end
in a lone space token, which the model has hardly ever seen before a word, so the target begins with the space instead.
"""

import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.data.encoders.interface import ExampleEncoder
from finetune_scaling.data.encoders.special_tokens import check_patterns
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import Tokenizer

# Beginnings of targets for which a boundary must be right: letters, words, digits, punctuation, other scripts.
_BEGINNINGS = (*string.ascii_letters, "the", "The", "Der", "in", "1", "(", "\u201e", "\u0412", "\u4f60")
_WORD = "a"  # stands for the target where only the ids of the prompt are wanted


class TextEncoder(ExampleEncoder):
    """Encodes the texts that a template writes.

    Attributes:
        spaces: The spaces that were moved from the end of the template's input to the beginning of its target.
    """

    def __init__(self, tokenizer: Tokenizer, template: Template):
        check_patterns(tokenizer, template.own_texts())
        self.tokenizer, self.special_tokens = tokenizer, tokenizer.special_tokens
        self.spaces = _spaces_of_target(tokenizer, _constant_end(template.input))
        self.identity = f"{len(self.spaces)} spaces in front of the target" if self.spaces else ""
        self.beginning = self.spaces + template.target.partition("{")[0]
        kept, moved = template.input.removesuffix(self.spaces), self.spaces + template.target
        self._template = dataclasses.replace(template, input=kept, target=moved)
        self._ends_in_space = _constant_end(kept)[-1:].isspace()

    def inputs(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        texts = [self._template.render(example)[0] for example in examples]
        if not (self.tokenizer.moves_spaces_to_target and self._ends_in_space):
            return self.tokenizer.encode_batch(texts)
        # A run of line breaks at the end of a text may have other ids than before a word.
        word = self.tokenizer.continuation.encode(_WORD)
        ids_of_texts = self.tokenizer.encode_batch([text + _WORD for text in texts])
        return [
            ids[: -len(word)] if ids[-len(word) :] == word else self.tokenizer.encode(text)
            for text, ids in zip(texts, ids_of_texts, strict=True)
        ]

    def targets(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        return self.tokenizer.continuation.encode_batch(self.target_texts(examples))

    def target_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        return [self._template.render(example)[1] for example in examples]


@functools.lru_cache(maxsize=64)
def _spaces_of_target(tokenizer: Tokenizer, end: str) -> str:
    """Return the spaces at the end of an input that its tokenizer writes as a part of the target's first word.

    end: the end of the input, the same for all examples. These are as few spaces as possible for which prompt and
    target have the ids of the text in one piece, whatever the target begins with; none if no number is right.
    """
    if not tokenizer.moves_spaces_to_target:
        return ""
    trailing = len(end) - len(end.rstrip(" "))
    for count in range(trailing + 1):
        cut = len(end) - count
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
