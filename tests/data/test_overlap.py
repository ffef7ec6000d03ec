"""Overlap of held-out texts with training texts, compared with sets of n-grams; and digests of splits."""

import random
import unicodedata

import pytest

from finetune_scaling.data import overlap
from finetune_scaling.data.overlap import SIMILARITY, find_overlap

WORDS = ["".join(random.Random(i).choices("abcdefghijklmnopqrstuvwxyzäß", k=2 + i % 6)) for i in range(200)]


def sentence(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def ngrams(texts: tuple[str, ...]) -> set[str]:
    text = "".join(c for c in unicodedata.normalize("NFKC", " ".join(texts)).casefold() if c.isalnum())
    return {text[i : i + 5] for i in range(max(1, len(text) - 4))}


def similarity(left: tuple[str, ...], right: tuple[str, ...]) -> float:
    one, other = ngrams(left), ngrams(right)
    return len(one & other) / len(one | other)


@pytest.mark.parametrize("block", [1024, 7])
def test_near_duplicates_are_those_of_a_complete_comparison(monkeypatch, block):
    monkeypatch.setattr(overlap, "_BLOCK", block)
    rng = random.Random(0)
    training = [(sentence(rng, 12), sentence(rng, 3 + i % 20)) for i in range(300)]
    held_out = []
    for number in range(120):  # copies with more and more words replaced
        source, target = training[number]
        words = source.split()
        for position in rng.sample(range(len(words)), k=number % 9):
            words[position] = rng.choice(WORDS)
        held_out.append((" ".join(words), target))
    exact = [texts in training for texts in held_out]
    near = [max(similarity(texts, other) for other in training) >= SIMILARITY for texts in held_out]
    assert 0 < sum(exact) < sum(near) < len(held_out)
    found = find_overlap(training, {"dev": held_out[:50], "test": held_out[50:]})
    for name, own in (("dev", slice(50)), ("test", slice(50, None))):
        assert found[name].exact == sum(exact[own])
        assert found[name].near == sum(near[own]) - sum(exact[own])


@pytest.mark.parametrize(
    ("training", "held_out", "expected"),
    [
        ([("The house", "Das Haus")], [("the  house!", "das haus.")], (0, 1, 0)),
        ([("Ｔｈｅ house", "x")], [("The house", "x")], (0, 1, 0)),
        ([("工具包", "tool")], [("工具包", "tool"), ("别的文字", "other")], (1, 0, 0)),
        ([("a", "b")], [("a", "c"), ("", ""), ("...", "!")], (0, 0, 1)),
        ([("The house", "Das Haus")], [("the house!", "something else"), ("a ship", "Das Haus")], (0, 0, 1)),
        ([("!?", "...")], [("!?", "..."), ("--", "--"), ("!?", "x")], (1, 0, 1)),
        ([], [("a", "b")], (0, 0, 0)),
        ([("a", "b")], [], (0, 0, 0)),
    ],
)
def test_short_and_unusual_texts(training, held_out, expected):
    assert find_overlap(training, {"test": held_out})["test"] == expected


def test_near_duplicates_of_more_text_than_the_limit_are_not_counted(monkeypatch):
    monkeypatch.setattr(overlap, "NEAR_LIMIT", 20)
    assert find_overlap([("a" * 11, ""), ("b" * 11, "")], {"test": [("b" * 11, ""), ("b" * 12, "")]})["test"] == (
        1,
        None,
        None,
    )
