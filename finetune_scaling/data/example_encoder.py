"""Token ids of prompts and targets: where the text of an example is cut in two, for training, scoring and decoding.

The ids of prompt and target together are those of the text in one piece, as the model read text in pretraining. A
byte-level BPE tokenizer, for example, writes " Haus" as one token. A prompt "German: " with the target "Haus" would end
in a lone space token, which the model has hardly ever seen before a word, so the target begins with the space instead.
"""

import dataclasses
import functools
import string
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.errors import ConfigError

# Beginnings of targets for which a boundary must be right: letters, words, digits, punctuation, other scripts.
_BEGINNINGS = (*string.ascii_letters, "the", "The", "Der", "in", "1", "(", "\u201e", "\u0412", "\u4f60")
_WORD = "a"  # stands for the target where only the ids of the prompt are wanted


@dataclasses.dataclass(frozen=True)
class ExampleEncoder:
    """Encodes the inputs and targets of examples, as a template writes them.

    Attributes:
        tokenizer: The tokenizer.
        template: The template, whose input does not end in spaces that belong to the target.
        spaces: The spaces that were moved from the end of the input to the beginning of the target.
    """

    tokenizer: Tokenizer
    template: Template
    spaces: str

    @property
    def special_tokens(self) -> SpecialTokens:
        """The ids in front of a sequence and after a target."""
        return self.tokenizer.special_tokens

    @property
    def identity(self) -> str:
        """What changes the ids, in addition to the tokenizer and the patterns of the template; "" for nothing."""
        return f"{len(self.spaces)} spaces in front of the target" if self.spaces else ""

    def inputs(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Return the ids of each example's input, without bos."""
        texts = [self.template.render(example)[0] for example in examples]
        if not (self.tokenizer.joins_space_to_word and _constant_end(self.template.input)[-1:].isspace()):
            return self.tokenizer.encode_batch(texts)
        # A run of line breaks at the end of a text may have other ids than before a word.
        word = self.tokenizer.continuation.encode(_WORD)
        ids_of_texts = self.tokenizer.encode_batch([text + _WORD for text in texts])
        return [
            ids[: -len(word)] if ids[-len(word) :] == word else self.tokenizer.encode(text)
            for text, ids in zip(texts, ids_of_texts, strict=True)
        ]

    def targets(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Return the ids of each example's target, without eos."""
        return self.tokenizer.continuation.encode_batch(self.target_texts(examples))

    def target_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the text of each example's target."""
        return [self.template.render(example)[1] for example in examples]

    def check_stop_strings(self, stops: Sequence[str]) -> None:
        """Raise ConfigError if a stop string is in what every target begins with, so that no text is generated."""
        beginning = self.template.target.partition("{")[0]
        for stop in stops:
            if stop in beginning:
                raise ConfigError(
                    f"decoding.stop has {stop!r}, but every target begins with {beginning!r}, so that generation would "
                    "stop at once; give another stop string"
                )


def example_encoder(tokenizer: Tokenizer, template: Template) -> ExampleEncoder:
    """Return the encoder of a tokenizer and a template."""
    spaces = _spaces_of_target(tokenizer, _constant_end(template.input))
    if spaces:
        kept, moved = template.input.removesuffix(spaces), spaces + template.target
        template = dataclasses.replace(template, input=kept, target=moved)
    return ExampleEncoder(tokenizer, template, spaces)


@functools.lru_cache(maxsize=64)
def _spaces_of_target(tokenizer: Tokenizer, end: str) -> str:
    """Return the spaces at the end of an input that its tokenizer writes as a part of the target's first word.

    end: the end of the input, the same for all examples. These are as few spaces as possible for which prompt and
    target have the ids of the text in one piece, whatever the target begins with; none if no number is right.
    """
    if not tokenizer.joins_space_to_word:
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
