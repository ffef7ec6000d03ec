"""The interface of encoders, which turn examples into token ids of prompt and target."""

import abc
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.errors import ConfigError


class ExampleEncoder(abc.ABC):
    """Encodes the inputs and targets of examples, as a template writes them.

    Attributes:
        tokenizer: The tokenizer.
        special_tokens: The ids in front of a sequence and after a target.
        identity: What changes the ids, in addition to the tokenizer and the patterns of the template; "" for nothing.
        beginning: The text that every target begins with.
        effect_of_special_tokens: What special tokens are in a text of the data.
    """

    tokenizer: Tokenizer
    special_tokens: SpecialTokens
    identity: str
    beginning: str
    effect_of_special_tokens = "encoded as plain text"

    @abc.abstractmethod
    def inputs(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Return the ids of each example's input, without bos."""

    @abc.abstractmethod
    def targets(self, examples: Sequence[Mapping[str, Any]]) -> list[list[int]]:
        """Return the ids of each example's target, without eos."""

    @abc.abstractmethod
    def target_texts(self, examples: Sequence[Mapping[str, Any]]) -> list[str]:
        """Return the text of each example's target."""

    def check_stop_strings(self, stops: Sequence[str]) -> None:
        """Raise an error if texts cannot be generated up to these stop strings.

        Raises:
            ConfigError: A stop string is in what every target begins with, so that no text is generated.
            DataError: The bytes of the tokenizer's tokens are unknown.
        """
        if stops:
            self.tokenizer.token_bytes()
        for stop in stops:
            if stop in self.beginning:
                raise ConfigError(
                    f"decoding.stop has {stop!r}, but every target begins with {self.beginning!r}, so that generation "
                    "would stop at once; give another stop string"
                )
