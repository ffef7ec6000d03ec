"""The tokenizer: lossless, deterministic, fixed special ids that no text can spell, and errors."""

import functools
import hashlib
import json
import lzma
import random
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import MODEL_FILE, SentencePieceTokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.errors import ConfigError, DataError, UserError


def _made_up_words(count: int) -> list[str]:
    generator = random.Random(0)
    syllables = [consonant + vowel for consonant in "bdfgklmnprstvz" for vowel in ("a", "e", "i", "o", "u", "ö")]
    return ["".join(generator.choices(syllables, k=generator.randint(1, 4))) for _ in range(count)]


WORDS = _made_up_words(300)
TEXTS = [" ".join(random.Random(i).choices(WORDS, k=12)) + ".\nthe lazy dog 中文" for i in range(300)]
ROOT = Path(__file__).parents[2]
CONFIG = TokenizerConfig(vocab_size=384, sentinels=10)


@pytest.fixture(scope="module", params=["unigram", "bpe"])
def tokenizer(request, tmp_path_factory) -> SentencePieceTokenizer:
    config = TokenizerConfig(vocab_size=384, sentinels=10, model_type=request.param)
    return train_tokenizer(TEXTS, config, tmp_path_factory.mktemp(request.param))


@functools.cache
def _trained() -> SentencePieceTokenizer:
    return train_tokenizer(TEXTS, CONFIG, tempfile.mkdtemp())


def test_layout_of_the_ids(tokenizer):
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.bos_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.special_tokens.mode_ids == {"R": 4, "X": 5, "S": 6}
    assert tokenizer.special_tokens.sentinel_ids == tuple(range(7, 17))
    assert tokenizer.vocab_size == 384
    assert tokenizer.encode("\n") == [17]


@settings(max_examples=300, deadline=None)
@given(st.text() | st.text(alphabet=" \n\t\r\0\u2028\u2581\u2585\u3000中文é<X>/s_1ab"))
def test_any_text_decodes_to_itself_without_special_ids(text):
    tokenizer = _trained()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(i > max(tokenizer.special_tokens.sentinel_ids) for i in ids)


@pytest.mark.parametrize(
    "text",
    [
        "  leading",
        "trailing  ",
        "a\n\n b",
        "\u2028",
        "▁a▁",
        "<X> <R> <S> <s> </s> <pad> <unk> <sentinel_3> <0x41>",
        "",
        "ﬁ Ａ\ufeff",
        "中文龘",
    ],
)
def test_special_characters_decode_to_themselves(tokenizer, text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_special_tokens_are_not_decoded(tokenizer):
    ids = tokenizer.encode("lazy dog")
    assert tokenizer.decode([2, 6, *ids[:1], 7, *ids[1:], 1, 0, 0]) == "lazy dog"


def test_a_newline_is_never_inside_a_piece(tokenizer):
    assert tokenizer.encode("a\nb\n\nc").count(17) == 3


def test_same_bytes_in_another_process(tmp_path):
    script = f"from tests.data.test_tokenizer import *\nprint(train_tokenizer(TEXTS, CONFIG, {str(tmp_path)!r}).digest)"
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == [_trained().digest]
    assert result.stderr == ""  # SentencePiece logs nothing


def test_digest_and_reload(tokenizer, tmp_path):
    path = tokenizer.save(tmp_path)
    assert tokenizer.digest == hashlib.sha256(path.read_bytes()).hexdigest()
    for again in (load_tokenizer(tmp_path), load_tokenizer(path)):
        assert again.digest == tokenizer.digest
        assert again.encode("five lazy wizards") == tokenizer.encode("five lazy wizards")


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet="lazy dogs▁中文é \n🜁"), st.integers(0, 12))
def test_truncate_gives_the_longest_prefix_at_a_token_boundary(text, limit):
    tokenizer = _trained()
    cut = tokenizer.truncate(text, limit)
    assert text.startswith(cut)
    assert len(tokenizer.encode(cut)) <= limit
    if len(tokenizer.encode(text)) <= limit:
        assert cut == text


def test_truncate_keeps_most_of_what_fits(tokenizer):
    text = " ".join(WORDS[:60])
    for limit in range(1, len(tokenizer.encode(text))):
        assert len(tokenizer.encode(tokenizer.truncate(text, limit))) >= limit - 1


def test_without_byte_fallback_unknown_characters_are_unk(tmp_path):
    config = TokenizerConfig(vocab_size=256, sentinels=0, byte_fallback=False, character_coverage=1.0)
    tokenizer = train_tokenizer(TEXTS, config, tmp_path)
    assert tokenizer.encode("龘") == [tokenizer.unk_id]
    assert tokenizer.decode(tokenizer.encode(TEXTS[0])) == TEXTS[0]


def test_small_vocabulary_over_a_large_alphabet_keeps_room_for_words(tmp_path):
    chinese = ["".join(chr(0x4E00 + (i * 7 + j * j) % 900) for j in range(9)) + " " + TEXTS[i] for i in range(300)]
    tokenizer = train_tokenizer(chinese, TokenizerConfig(vocab_size=400, sentinels=10), tmp_path)
    assert tokenizer.vocab_size == 400
    assert len(tokenizer.encode(" the lazy dog")) < len(" the lazy dog")
    assert tokenizer.decode(tokenizer.encode(chinese[0])) == chinese[0]


def test_sampling_lines_is_seeded_and_reads_the_whole_corpus(tmp_path):
    few = [TokenizerConfig(vocab_size=320, sentinels=10, max_sentences=40, seed=seed) for seed in (0, 0, 1)]
    digests = [train_tokenizer(iter(TEXTS), config, tmp_path / str(i)).digest for i, config in enumerate(few)]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("size", [256, 300, 200_000])
def test_vocabulary_outside_its_range_is_refused_with_the_minimum(size):
    with pytest.raises(ConfigError, match=r"outside 380\.\.131072.*byte_fallback"):
        TokenizerConfig(vocab_size=size)


@pytest.mark.parametrize(("name", "value"), [("sentinels", -1), ("max_sentences", 0), ("character_coverage", 1.5)])
def test_settings_out_of_range_are_refused_by_field(name, value):
    with pytest.raises(ConfigError, match=rf"tokenizer\.{name} = {value} must be"):
        TokenizerConfig(vocab_size=512, **{name: value})


def test_alphabet_larger_than_the_vocabulary_names_the_minimum(tmp_path):
    config = TokenizerConfig(vocab_size=256, sentinels=0, byte_fallback=False, character_coverage=1.0)
    with pytest.raises(ConfigError, match=r"alphabet of 300 characters; take at least 608"):
        train_tokenizer(["".join(chr(0x4E00 + i) for i in range(300))], config, tmp_path)


@pytest.mark.parametrize("model_type", ["unigram", "bpe"])
def test_too_little_text_names_the_largest_vocabulary(tmp_path, model_type):
    with pytest.raises(DataError, match=r"allows at most (\d+)"):
        train_tokenizer(["ab abc"], TokenizerConfig(vocab_size=1000, model_type=model_type), tmp_path)


@pytest.mark.parametrize("texts", [[], [""], ["\t▁\n"]])
def test_empty_training_text_is_an_error(tmp_path, texts):
    with pytest.raises(DataError, match="no text to learn from"):
        train_tokenizer(texts, CONFIG, tmp_path)


@pytest.mark.parametrize("bad", ["a\ud800b", None, 3])
def test_invalid_text_is_an_error(bad):
    with pytest.raises(DataError):
        _trained().encode_batch(["good", bad])


def test_missing_and_damaged_files_are_an_error(tmp_path):
    with pytest.raises(DataError, match=f"{MODEL_FILE}: no such tokenizer"):
        load_tokenizer(tmp_path)
    path = _trained().save(tmp_path)
    data = path.read_bytes()
    for damaged in (data[:-100], b"", data[:500] + b"x" + data[501:]):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match=MODEL_FILE):
            load_tokenizer(tmp_path)
    path.rename(tmp_path / "other.model")
    (tmp_path / "other.model").write_bytes(data[:-100])
    with pytest.raises(DataError, match=r"other\.model"):
        load_tokenizer(tmp_path / "other.model")


def test_another_sentencepiece_model_is_an_error(tmp_path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXTS), model_prefix=str(tmp_path / "foreign"), vocab_size=60, minloglevel=2,
        hard_vocab_limit=False,
    )  # fmt: skip
    with pytest.raises(DataError, match="lacks pad 0"):
        load_tokenizer(tmp_path / "foreign.model")


def test_real_chinese_and_english_decode_to_themselves(shared_data, tmp_path):
    with lzma.open(shared_data / "mt_news" / "en-zh.valid.jsonl.xz", "rt", encoding="utf-8") as file:
        texts = [record[language] for record in map(json.loads, file) for language in ("en", "zh")]
    tokenizer = train_tokenizer(texts, TokenizerConfig(vocab_size=2048, sentinels=10, max_sentences=1500), tmp_path)
    encoded = tokenizer.encode_batch(texts)
    assert [tokenizer.decode(ids) for ids in encoded] == texts
    assert sum(map(len, encoded)) < 0.6 * sum(len(text.encode()) for text in texts)


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json", "config.json"])
def test_a_file_of_a_public_tokenizer_that_is_no_text_is_named(name, tmp_path):
    for file in ("tokenizer.json", "tokenizer_config.json", "config.json"):
        (tmp_path / file).write_bytes(b"\xff" if file == name else b"{}")
    with pytest.raises(UserError, match=rf"/{name}: not UTF-8"):
        load_tokenizer(tmp_path)
