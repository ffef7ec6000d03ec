"""Our Cistem against NLTK's, which its authors contributed."""

import json
import lzma
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nltk.stem.cistem import Cistem

from finetune_scaling.metrics.cistem import stem

GERMAN_LETTERS = "abcdefghijklmnopqrstuvwxyzäöüßABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÜ"
REFERENCE = Cistem(case_insensitive=True)


@pytest.mark.parametrize(
    ("word", "expected"),
    [("Häusern", "hau"), ("gelaufen", "lauf"), ("Geld", "geld"), ("Bücher", "buch"), ("Flüsse", "fluss")],
)
def test_known_stems(word, expected):
    assert stem(word) == expected


def test_forms_of_one_word_share_a_stem():
    assert len({stem(word) for word in ("Speicherbehälter", "Speicherbehältern", "Speicherbehälters")}) == 1


@given(st.text(alphabet=GERMAN_LETTERS, min_size=1, max_size=20) | st.text(alphabet="geschintrmdß", min_size=1))
@example("schschie")
@example("gegessen")
@example("eieiei")
@example("ssssss")
def test_equals_nltk_on_any_letters(word):
    assert stem(word) == REFERENCE.stem(word)


def test_empty_word_has_an_empty_stem():
    assert stem("") == ""


def test_equals_nltk_on_the_words_of_german_descriptions(shared_data):
    with lzma.open(shared_data / "sum_ddtp" / "de.train.jsonl.xz", "rt", encoding="utf-8") as file:
        words = {word for line in file for word in re.findall(r"[^\W\d_]+", json.loads(line)["document"])}
    assert len(words) > 10_000
    assert [word for word in words if stem(word) != REFERENCE.stem(word)] == []
