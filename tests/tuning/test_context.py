"""Tokens and a soft prompt have to fit the model's context, to the last token."""

import dataclasses

import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.tuning.context import check_context
from finetune_scaling.tuning.method import TuningMethod


@pytest.mark.parametrize("prompt", [0, 5])
def test_the_context_is_filled_but_not_exceeded(tiny_config, prompt):
    model = dataclasses.replace(tiny_config, max_length=32)
    tuning = TuningMethod("prompt", "prompt/.*", prompt_length=prompt)
    check_context("a text", 32 - prompt, model, tuning, "shorten it")
    with pytest.raises(ConfigError, match=r"^a text: 33 tokens.* max_length = 32. Fix: shorten it"):
        check_context("a text", 33 - prompt, model, tuning, "shorten it")
