"""Exported SentencePiece tokenizers: the same ids for every text, and the same texts for ids."""

import json
import lzma
import runpy
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.errors import DataError
from finetune_scaling.interop.tokenizers.sentencepiece_export import MARK, _Pieces, fast_tokenizer
from finetune_scaling.interop.tokenizers.tokenizer_files import tokenizer_files

PUBLIC = runpy.run_path(str(Path(__file__).parents[1] / "public_tokenizers.py"))
TEXTS = (
    "The quick brown fox jumps over the lazy dog, and then it sleeps.",
    "Der schnelle Fuchs läuft über die Straße; größer wird er nicht.",
    "Быстрая лиса прыгает через ленивую собаку.",
    "敏捷的狐狸跳过了懒狗。你好，世界！",
    "if a < b and b <= c: <s> is <b>bold</b>",
)
PARTS = ("sa", "li", "ge", "bu", "the ", "aa", "tion", "vor", "ko", "mi<", "lu")
WORDS = " ".join(first + second + third for first in PARTS for second in PARTS for third in PARTS)
KINDS = {
    "unigram": {"vocab_size": 320},
    "bpe": {"vocab_size": 330, "model_type": "bpe"},
    "unigram, no <": {"vocab_size": 290, "character_coverage": 0.9},
    "without bytes": {"vocab_size": 256, "byte_fallback": False, "character_coverage": 0.95, "sentinels": 120},
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """By kind: a tokenizer, and the tokenizer that transformers loads from the exported files."""
    found = {}
    for kind, options in KINDS.items():
        folder = tmp_path_factory.mktemp("tokenizer")
        texts = TEXTS[:-1] if kind == "unigram, no <" else TEXTS
        words = WORDS.replace("<", "") if "no <" in kind else WORDS
        tokenizer = train_tokenizer([*texts, words], TokenizerConfig(**{"sentinels": 4, **options}), folder)
        files = tokenizer_files(str(folder), tokenizer.vocab_size)
        for name, data in files.files.items():
            (folder / "out").mkdir(exist_ok=True)
            (folder / "out" / name).write_bytes(data)
        found[kind] = tokenizer, AutoTokenizer.from_pretrained(folder / "out")
    return found


@settings(max_examples=200, deadline=None)
@given(st.text(st.one_of(st.sampled_from("".join(TEXTS) + "<>/s0xABpad unk_\u2581\n\t"), st.characters(codec="utf-8"))))
@example("<s></s><pad><unk><R><X><sentinel_0>")
@example("<0x41><0x3C>< <0x")
@example("a\u2581b \u2581\u2581 aaaaaaaaa")
@example("  two  spaces\n\nand\tothers \u00a0 \0")
def test_ids_and_texts_are_equal(pairs, text):
    for kind, (tokenizer, exported) in pairs.items():
        if MARK in text or (kind == "without bytes" and "\u2581" in text):
            continue  # known differences
        ids, found = tokenizer.encode(text), exported.encode(text, add_special_tokens=False)
        assert found == ids or (kind != "bpe" and is_tie(tokenizer, found, ids)), kind
        assert exported.encode(text) == [tokenizer.bos_id, *found], kind
        if kind != "without bytes":
            assert exported.decode(ids, skip_special_tokens=True) == tokenizer.decode(ids) == text, kind


def is_tie(tokenizer, left, right):
    """Whether two segmentations have the same score, so that rounding chose between them."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.model)
    scores = [sum(model.get_score(i) for i in ids) for ids in (left, right)]
    return sorted(left) == sorted(right) and abs(scores[0] - scores[1]) < 1e-9


def test_special_tokens_are_equal(pairs):
    for tokenizer, exported in pairs.values():
        assert len(exported) == tokenizer.vocab_size
        specials = (exported.bos_token_id, exported.eos_token_id, exported.pad_token_id, exported.unk_token_id)
        assert specials == (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id, tokenizer.unk_id)
        assert [tokenizer.decode([i]) for i in exported.all_special_ids if i != tokenizer.unk_id] == [""] * 3


def test_ids_of_news_text_are_equal(shared_data, tmp_path):
    with lzma.open(shared_data / "mt_news" / "en-zh.valid.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [value for line in file for value in json.loads(line).values() if isinstance(value, str)]
    for model_type in ("unigram", "bpe"):
        tokenizer = train_tokenizer(
            texts, TokenizerConfig(vocab_size=4000, model_type=model_type), tmp_path / model_type
        )
        exported = fast_tokenizer(tokenizer)
        assert [exported.encode(text, add_special_tokens=False).ids for text in texts] == tokenizer.encode_batch(texts)


def test_inexact_tokenizer_is_not_exported(pairs, tmp_path, monkeypatch):
    tokenizer, _ = pairs["bpe"]
    tokenizer.save(tmp_path)
    monkeypatch.setattr(_Pieces, "are_ranks", False)  # treat ranks as log-probabilities
    found = tokenizer_files(str(tmp_path), tokenizer.vocab_size)
    assert not found.files
    assert found.special_ids == {"bos_token_id": 2, "eos_token_id": 1, "pad_token_id": 0}
    assert "no exact tokenizer.json" in found.reason


def test_files_of_a_public_tokenizer_are_copied(tmp_path):
    PUBLIC["byte_level"](tmp_path)
    (tmp_path / "model_fields.json").write_text(json.dumps({"vocab_size": 400}))  # as in an imported base
    found = tokenizer_files(str(tmp_path), 400)
    assert found.files["tokenizer.json"] == (tmp_path / "tokenizer.json").read_bytes()
    assert found.files.keys() == {"tokenizer.json", "tokenizer_config.json"}
    assert found.special_ids == {"bos_token_id": 1, "eos_token_id": 2}
    with pytest.raises(DataError, match="has 340 ids, but the model has 300 embeddings"):
        tokenizer_files(str(tmp_path), 300)
