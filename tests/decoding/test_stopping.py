"""Stop strings: found at the token that completes them, wherever tokens begin and end."""

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.decoding.search import RowInputs, Termination
from finetune_scaling.decoding.stopping import FOUND, START, cut, stop_table

PIECES = [b"", b"a", b"b", b"ab", b"ba", b"aab", "ä".encode()[:1], "ä".encode()[1:], b"bbab"]
stops = st.lists(st.text("abä", min_size=1, max_size=5), min_size=1, max_size=3)


@given(stops, st.lists(st.integers(0, len(PIECES) - 1), max_size=12))
def test_a_stop_string_is_found_when_the_text_has_it(texts, tokens):
    table, state, written = stop_table(texts, PIECES), START, b""
    for token in tokens:
        state, written = table[state, token], written + PIECES[token]
        assert (state == FOUND) == any(text.encode() in written for text in texts)


def test_a_text_ends_at_eos_its_limit_or_a_stop_string():
    row = RowInputs(limit=jnp.array([3]), example=jnp.array([0]))
    table = jnp.asarray(stop_table(["ab"], PIECES))
    states, ends = Termination(0, table).follow(jnp.array([[START] * 3]), jnp.array([[1, 3, 0]]), row, jnp.int32(0))
    assert ends.tolist() == [[False, True, True]]  # a, ab, eos
    states, ends = Termination(0, table).follow(states, jnp.array([[2, 2, 2]]), row, jnp.int32(1))
    assert (states == FOUND).tolist() == ends.tolist() == [[True, True, False]]
    states, ends = Termination(0, None).follow(states, jnp.array([[1, 1, 1]]), row, jnp.int32(2))
    assert ends.all()


def test_what_a_stop_string_ends_is_cut_at_the_first():
    assert cut("one. two\nthree. four", ["\n", ". "]) == "one"
    assert cut("one", ["\n"]) == "one"
    assert cut("\none", ["\n"]) == ""


def test_the_bytes_of_tokens_make_the_text(tiny_runs):
    tokenizer = load_tokenizer(tiny_runs.tokenizer)
    pieces = tokenizer.token_bytes()
    assert len(pieces) == tokenizer.vocab_size
    ids = np.random.default_rng(0).permutation(tokenizer.vocab_size).tolist()
    assert b"".join(pieces[i] for i in ids).decode() == tokenizer.decode(ids)
    assert pieces[tokenizer.eos_id] == b""


@pytest.mark.parametrize("method", [{}, {"method": "beam", "beams": 3, "n_best": 3}], ids=["greedy", "beam"])
def test_texts_end_where_a_stop_string_is_complete(llama, fully_tuned, decode, prompts, method):
    """Tokens are written as words of two letters, so that stop strings lie across them."""
    model = llama()
    tuned = fully_tuned(model.config, model.params)
    words = [b"" if i < 4 else bytes([97 + i % 12, 97 + i // 12]) for i in range(model.config.vocab_size)]
    spell = lambda tokens: b"".join(words[i] for i in tokens).decode()  # noqa: E731
    free = decode(tuned, prompts, **method)
    inside = spell(free[1][0].tokens[3:6])
    stop = inside[1:4]  # half of a token, a whole one
    ended = decode(tuned, prompts, stop=(stop,), token_bytes=words, **method)
    assert any(stop in spell(text.tokens) for texts in ended for text in texts)
    for texts in ended:
        for text in texts:
            assert stop not in spell(text.tokens[:-1])
    if not method:
        for (before,), (after,) in zip(free, ended, strict=True):
            assert before.tokens[: len(after.tokens)] == after.tokens
            assert cut(spell(before.tokens), [stop]) == cut(spell(after.tokens), [stop])
