"""Training a tokenizer on the text of a corpus."""

import dataclasses
from pathlib import Path

from finetune_scaling.data.corpus import CorpusConfig, Texts
from finetune_scaling.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer


@dataclasses.dataclass(frozen=True)
class TokenizerPreparation:
    """A tokenizer and the text that it is learned from (the training part of `corpus`)."""

    tokenizer: TokenizerConfig
    corpus: CorpusConfig


def prepare_tokenizer(preparation: TokenizerPreparation, out: str | Path) -> Tokenizer:
    """Trains and saves a tokenizer into `out`; raises DataError or ConfigError where text and settings do not fit."""
    texts = Texts(preparation.corpus.train, "corpus.train")
    return train_tokenizer(texts, preparation.tokenizer, out)
