"""A small tokenizer that the tests of this directory share."""

import random
import string

import pytest

from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> SentencePieceTokenizer:
    """A tokenizer of 400 ids, 30 of them sentinels, trained on random words of lowercase letters."""
    words = ["".join(random.Random(i).choices(string.ascii_lowercase, k=2 + i % 5)) for i in range(300)]
    texts = [" ".join(random.Random(i).choices(words, k=12)) for i in range(300)]
    return train_tokenizer(texts, TokenizerConfig(vocab_size=400, sentinels=30), tmp_path_factory.mktemp("tokenizer"))
