"""Models before the first step of a run."""

import numpy as np

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.runs.model_loading import initialize_model, load_base
from finetune_scaling.runs.run_config import read_run_config


def test_a_soft_prompt_starts_from_the_tokens_of_its_text(tiny_runs):
    tokenizer = load_tokenizer(str(tiny_runs.tokenizer))
    text = tokenizer.decode([40, 50, 60])
    method = {"length": 5, "initialization": "text", "text": text}
    model = initialize_model(read_run_config(tiny_runs.config("prompt", method=method)))
    base = load_base(tiny_runs.base)
    tokens = np.resize(tokenizer.encode(text), 5)
    assert len(set(tokens)) > 1
    expected = LanguageModel(base.config).embed(base.params, tokens[None])[0]
    np.testing.assert_array_equal(model.trainable["prompt"]["embedding"], expected)
