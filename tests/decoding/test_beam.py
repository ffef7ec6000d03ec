"""Beam search against plain searches in Python, over a vocabulary of five tokens."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel
from finetune_scaling.models.token_layout import TokenLayout

EOS, LONGEST = 1, 4
TINY = ModelConfig(
    vocab_size=5, layers=1, model_dim=8, heads=2, kv_heads=1, head_dim=4, ffn_dim=12, max_length=16,
    embedding_std=0.5, compute_dtype="float32",
)  # fmt: skip
PROMPT = [3, 2, 4]


@pytest.fixture(scope="module")
def tiny(random_params, fully_tuned):
    return fully_tuned(TINY, random_params(TINY))


@pytest.fixture(scope="module")
def log_probabilities(random_params):
    """text -> log p(next | PROMPT, text) [V], by one plain forward pass over all texts of up to LONGEST tokens."""
    model, params = LanguageModel(TINY), random_params(TINY)
    texts = list(itertools.product(range(5), repeat=LONGEST))
    tokens = np.array([[*PROMPT, *text] for text in texts])
    positions = np.broadcast_to(np.arange(tokens.shape[1]), tokens.shape)
    layout = TokenLayout(positions, np.ones_like(tokens), np.zeros(tokens.shape, bool))

    @jax.jit
    def forward(params):
        hidden, _ = model.forward(params, model.embed(params, tokens), layout)
        return jax.nn.log_softmax(model.unembed(params, hidden[:, len(PROMPT) - 1 :]))

    table = np.asarray(forward(params))
    return {text[:n]: row[n] for text, row in zip(texts, table, strict=True) for n in range(LONGEST)}


def total(text, log_probabilities):
    return sum(float(log_probabilities[text[:place]][token]) for place, token in enumerate(text))


def ended(text):
    return text[-1] == EOS or len(text) == LONGEST


def test_the_definition_finds_the_best_of_all_texts_where_nothing_is_dropped(log_probabilities):
    texts = [t for n in range(1, LONGEST + 1) for t in itertools.product(range(5), repeat=n) if EOS not in t[:-1]]
    ranked = sorted(((total(t, log_probabilities) / len(t), t) for t in texts if ended(t)), reverse=True)
    assert [t for _, t in plain_beam_search(log_probabilities, 400, lambda n: n)] == [t for _, t in ranked[:400]]


def plain_beam_search(log_probabilities, beams, penalty):
    """The method as its definition says it, in lists: (score, text), best first."""
    running, finished = [(0.0, ())], []
    for length in range(1, LONGEST + 1):
        options = [
            (score + float(log_probabilities[text][token]), (*text, token))
            for score, text in running
            for token in range(5)
        ]
        best = sorted(options, reverse=True)[: 2 * beams]
        finished += [(score / penalty(length), text) for score, text in best[:beams] if ended(text)]
        finished = sorted(finished, reverse=True)[:beams]
        running = [(score, text) for score, text in best if not ended(text)][:beams]
        if len(finished) == beams and running and running[0][0] / penalty(length) <= finished[-1][0]:
            break
    return finished


@pytest.mark.parametrize(
    ("beams", "length_penalty", "form"), [(2, 0.0, "hf"), (2, 1.5, "hf"), (2, 0.7, "gnmt"), (1, 2.0, "gnmt")]
)
def test_beam_search_is_its_definition(tiny, decode, log_probabilities, beams, length_penalty, form):
    penalties = {"hf": lambda n: n**length_penalty, "gnmt": lambda n: ((5 + n) / 6) ** length_penalty}
    expected = plain_beam_search(log_probabilities, beams, penalties[form])
    options = {"length_penalty": length_penalty, "length_penalty_form": form, "n_best": beams}
    (ours,) = decode(tiny, [PROMPT], longest=LONGEST, method="beam", beams=beams, batch_size=1, **options)
    texts = [tuple(token for token in text if token != EOS) for _, text in expected]
    assert [tuple(text.tokens) for text in ours] == texts
    np.testing.assert_allclose([text.score for text in ours], [score for score, _ in expected], rtol=1e-5)


def test_a_score_is_the_texts_log_probability_over_its_penalty(tiny, decode, log_probabilities):
    (ours,) = decode(tiny, [PROMPT], longest=LONGEST, method="beam", beams=2, n_best=2, batch_size=1)
    for text in ours:
        tokens = tuple(text.tokens) if len(text.tokens) == LONGEST else (*text.tokens, EOS)
        assert math.isclose(text.score, total(tokens, log_probabilities) / len(tokens), rel_tol=1e-5)


def test_one_beam_is_greedy_search(llama, fully_tuned, decode, prompts):
    model = llama()
    tuned = fully_tuned(model.config, model.params)
    beam = decode(tuned, prompts, method="beam", beams=1, early_stopping=True)
    assert [texts[0].tokens for texts in beam] == [texts[0].tokens for texts in decode(tuned, prompts)]


def test_the_vocabulary_has_to_hold_all_candidates(tiny, decode):
    with pytest.raises(ConfigError, match=r"decoding.beams = 3 needs a vocabulary of at least 6 tokens, not 5"):
        decode(tiny, [PROMPT], method="beam", beams=3)


def test_rows_without_a_prompt_make_no_nan(tiny, decode):
    with jax.debug_nans(True):
        (alone,) = decode(tiny, [PROMPT], method="beam", beams=2, batch_size=4)
    assert jnp.isfinite(alone[0].score)
