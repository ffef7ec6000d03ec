"""Greedy and beam search write what `transformers.generate` writes, token for token and score for score."""

import itertools

import numpy as np
import pytest
import torch

EOS, PAD, NEW = 1, 0, 14
HEADS = [(4, 4, False), (4, 2, True), (4, 1, False)]  # multi-head, grouped-query and tied, multi-query

each_attention = pytest.mark.parametrize("heads", HEADS, ids=["mha", "gqa-tied", "mqa"])


def hugging_face_texts(model, prompt, beams=1, n_best=1, other_end_ids=(), **options):
    """Tokens up to the first that ends a text, and scores, of the n_best texts that Hugging Face writes."""
    ends = {EOS, *other_end_ids}
    tokens = torch.tensor([prompt])
    output = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, eos_token_id=sorted(ends), pad_token_id=PAD,
        do_sample=False, num_beams=beams, num_return_sequences=n_best, return_dict_in_generate=True,
        output_scores=True, **options,
    )  # fmt: skip
    texts = [row[len(prompt) :].tolist() for row in output.sequences]
    texts = [list(itertools.takewhile(lambda token: token not in ends, text)) for text in texts]
    return texts, output.sequences_scores.tolist() if beams > 1 else None


@each_attention
def test_greedy_search(llama, fully_tuned, decode, prompts, heads):
    model = llama(*heads)
    ours = decode(fully_tuned(model.config, model.params), prompts)
    expected = [hugging_face_texts(model.reference, prompt)[0] for prompt in prompts]
    assert [[best.tokens for best in texts] for texts in ours] == expected
    assert len({len(best.tokens) for (best,) in ours}) > 1  # some end by eos, at several lengths


@pytest.mark.parametrize("beams", [1, 3])
def test_several_ids_end_a_text(llama, fully_tuned, decode, prompts, beams):
    model = llama()
    (free,) = hugging_face_texts(model.reference, prompts[1])[0]
    ends = (free[2], free[4])
    if beams == 1:
        ours = decode(fully_tuned(model.config, model.params), prompts, other_end_ids=ends)
        expected = [hugging_face_texts(model.reference, prompt, other_end_ids=ends)[0] for prompt in prompts]
        assert [[best.tokens for best in texts] for texts in ours] == expected
        assert ours[1][0].tokens == free[: min(free.index(end) for end in ends)]
    else:
        check_beams(model, fully_tuned, decode, prompts[:3], beams, n_best=2, other_end_ids=ends)


PENALTIES = [(True, 1.0), ("never", 2.0), (False, 0.0), ("never", -0.5)]


@each_attention
def test_beam_search(llama, fully_tuned, decode, prompts, heads):
    model = llama(*heads)
    check_beams(model, fully_tuned, decode, prompts, beams=4, n_best=4)


@pytest.mark.parametrize(("early_stopping", "length_penalty"), PENALTIES)
def test_early_stopping_and_length_penalties(llama, fully_tuned, decode, prompts, early_stopping, length_penalty):
    options = {"early_stopping": early_stopping, "length_penalty": length_penalty}
    check_beams(llama(), fully_tuned, decode, prompts[:3], beams=3, n_best=2, **options)


def check_beams(model, fully_tuned, decode, prompts, beams, n_best, **options):
    ours = decode(
        fully_tuned(model.config, model.params), prompts, method="beam", beams=beams, n_best=n_best, **options
    )
    for prompt, texts in zip(prompts, ours, strict=True):
        expected, scores = hugging_face_texts(model.reference, prompt, beams, n_best, **options)
        assert [text.tokens for text in texts] == expected
        np.testing.assert_allclose([text.score for text in texts], scores, rtol=2e-5)
