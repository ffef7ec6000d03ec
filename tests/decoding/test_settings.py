"""Settings of decoding: every wrong value is named, with the fix."""

import pytest

from finetune_scaling import configuration
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.runs.run_config import EvaluationConfig


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"method": "beams"}, "evaluation.decoding.method = 'beams' is unknown; did you mean 'beam'"),
        ({"beam": 4}, "evaluation.decoding.beam is not a field of evaluation.decoding; did you mean 'beams'"),
        ({"method": "beam", "beams": 0}, "decoding.beams = 0 must be at least 1"),
        ({"method": "beam", "n_best": 5}, "decoding.n_best = 5 must be at most beams = 4"),
        ({"beams": 8}, "decoding.beams = 8 is for decoding.method = 'beam', not 'greedy'"),
        ({"method": "beam", "top_k": 3}, "decoding.top_k = 3 is for decoding.method = 'sample', not 'beam'"),
        ({"method": "sample", "n_best": 2}, "decoding.n_best = 2 is for decoding.method = 'beam', not 'sample'"),
        ({"method": "sample", "temperature": 0.0}, "decoding.temperature = 0.0 must be above 0"),
        ({"method": "sample", "top_k": 0}, "decoding.top_k = 0 must be at least 1"),
        ({"method": "sample", "top_p": 1.5}, r"decoding.top_p = 1.5 must be in \(0, 1\]"),
        ({"method": "sample", "min_p": -0.1}, r"decoding.min_p = -0.1 must be in \[0, 1\]"),
        ({"method": "sample", "seed": -1}, r"decoding.seed = -1 must be in"),
        ({"method": "beam", "early_stopping": "always"}, "evaluation.decoding.early_stopping = 'always'"),
        ({"method": "beam", "length_penalty_form": "marian"}, "length_penalty_form = 'marian' is unknown"),
        ({"stop": ("",)}, "decoding.stop = .* has an empty string"),
        ({"max_new_tokens": 0}, "decoding.max_new_tokens = 0 must be at least 1"),
        ({"max_length_ratio": 0.0}, "decoding.max_length_ratio = 0.0 must be above 0"),
    ],
)
def test_what_is_wrong_is_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        configuration.build(EvaluationConfig, {"decoding": fields}, "evaluation")


def test_all_fields_can_be_given_in_a_config():
    beam = {"method": "beam", "beams": 5, "n_best": 5, "length_penalty": 1, "early_stopping": "never", "stop": ["\n"]}
    built = configuration.build(EvaluationConfig, {"decoding": beam}, "evaluation").decoding
    assert built == DecodingConfig("beam", 5, 5, 1.0, early_stopping="never", stop=("\n",))
    assert configuration.build(DecodingConfig, {"method": "beam", "early_stopping": True}, "d").early_stopping is True
    assert DecodingConfig().limit(7) == 7
    assert DecodingConfig(max_new_tokens=3).limit(7) == 3
