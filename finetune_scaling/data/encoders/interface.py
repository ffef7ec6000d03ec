"""The interface of encoders, which turn examples into token ids of prompt and target."""

import abc
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from finetune_scaling.data.tokenizers.interface import SpecialTokens, Tokenizer
from finetune_scaling.errors import ConfigError

log = logging.getLogger(__name__)


class ExampleEncoder(abc.ABC):
    """Encodes the inputs and targets of examples, as a template writes them.

    Attributes:
        tokenizer: The tokenizer.
        special_tokens: The ids in front of a sequence and after a target.
        identity: What changes the ids, in addition to the tokenizer and the patterns of the template; "" for nothing.
        beginning: The text that every target begins with.
        effect_of_special_tokens: What special tokens are that a text of the data spells.
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

    def warn_about_special_tokens(self, counts: Mapping[str, int], examples: int) -> None:
        """Warn of special tokens that sources or targets spell; counts: the number of examples for each of them."""
        numbers = ", ".join(f"{token} in {count:,}" for token, count in counts.items())
        log.warning(
            "%d examples: sources or targets spell special tokens (%s), which are %s. The token that ends a text is "
            "added to every target: if they are left over from another format, remove them from the data",
            examples, numbers, self.effect_of_special_tokens,
        )  # fmt: skip

    def check_stop_strings(self, stops: Sequence[str]) -> None:
        """Raise ConfigError if a stop string is in what every target begins with, so that no text is generated."""
        for stop in stops:
            if stop in self.beginning:
                raise ConfigError(
                    f"decoding.stop has {stop!r}, but every target begins with {self.beginning!r}, so that generation "
                    "would stop at once; give another stop string"
                )
