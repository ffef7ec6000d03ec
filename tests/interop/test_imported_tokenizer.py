"""Tokenizers of public models give the ids of transformers' AutoTokenizer and decode them to the same texts."""

import json
import runpy
import unicodedata
from pathlib import Path

import pytest
from transformers import AutoTokenizer, GemmaTokenizer, GPTNeoXTokenizer, Qwen2Tokenizer

from finetune_scaling.data.encoding import SequenceFormat, encode_prompts
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.hugging_face import load_hugging_face_tokenizer
from finetune_scaling.errors import DataError

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_tokenizers.py"))
KINDS = MADE["KINDS"]
TEXTS = (
    *MADE["TEXTS"],
    "Zwei  Leerzeichen,\tein Tab\n\nund leere Zeilen \n",
    "naïve café, Ωμέγα, 🙂👩‍👩‍👧 and \u00a0 spaces",
    "日本語のテキスト。한국어 텍스트",
    "x",
    "",
)
PAIRS = ((0, 10), (1, 17), (2, 7), (4, 14))  # a text, and the position of a cut before a space
FIELDS = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(kind) -> the directory of a tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizers")
    for name, make in KINDS.items():
        make(folder / name)
    return lambda kind: folder / kind


each_kind = pytest.mark.parametrize("kind", KINDS)


@each_kind
def test_ids_and_texts_equal_those_of_transformers(made, kind):
    tokenizer, reference = load_hugging_face_tokenizer(made(kind), FIELDS), MADE["reference_tokenizer"](made(kind))
    front = [] if tokenizer.special_tokens.bos_id is None else [tokenizer.special_tokens.bos_id]
    assert (front == []) == (kind in MADE["WITHOUT_BOS"])
    assert (tokenizer.eos_id, tokenizer.vocab_size) == (reference.eos_token_id, len(reference))
    for text, ids in zip(TEXTS, tokenizer.encode_batch(TEXTS), strict=True):
        assert front + ids == reference(text).input_ids, text
        assert tokenizer.encode(text) == ids
        assert tokenizer.decode(ids) == reference.decode(front + ids, skip_special_tokens=True) == text
    for text in MADE["SPACED"]:
        ids = tokenizer.encode(text)
        assert front + ids == reference(text).input_ids, text
        assert tokenizer.decode(ids) == reference.decode(ids, skip_special_tokens=True)


DECOMPOSED = "Stra\u00dfe nai\u0308ve cafe\u0301, 12345 it's\n\n\n    four  spaces\u00a0\r\n a\u0300"


@each_kind
def test_ids_of_decomposed_letters_digits_and_runs_of_spaces(made, kind):
    """Kinds with NFC normalization encode the normalized text."""
    tokenizer, reference = load_hugging_face_tokenizer(made(kind), FIELDS), MADE["reference_tokenizer"](made(kind))
    front = [] if tokenizer.special_tokens.bos_id is None else [tokenizer.special_tokens.bos_id]
    ids = tokenizer.encode(DECOMPOSED)
    assert front + ids == reference(DECOMPOSED).input_ids
    spelled = unicodedata.normalize("NFC", DECOMPOSED) if kind in ("qwen", "gpt_neox") else DECOMPOSED
    assert tokenizer.decode(ids) == spelled
    assert DECOMPOSED.startswith(tokenizer.truncate(DECOMPOSED, len(ids) - 1))
    assert b"".join(tokenizer.token_bytes()[i] for i in tokenizer.continuation.encode(DECOMPOSED)).decode() == spelled


@pytest.mark.parametrize("tokenizer_class", [GPTNeoXTokenizer, Qwen2Tokenizer, GemmaTokenizer])
def test_ids_of_the_tokenizer_classes_of_families(tokenizer_class, tmp_path):
    """As transformers' classes train and save them, with their own special tokens."""
    tokenizer_class().train_new_from_iterator(MADE["TEXTS"] * 3, MADE["SIZE"]).save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer = load_hugging_face_tokenizer(tmp_path, FIELDS)
    assert type(again) is tokenizer_class
    assert (tokenizer.special_tokens.bos_id, tokenizer.eos_id, tokenizer.vocab_size) == (
        None,
        again.eos_token_id,
        len(again),
    )
    for text in (*TEXTS, DECOMPOSED):
        assert tokenizer.encode(text) == again(text).input_ids, text
    assert again.eos_token_id not in tokenizer.encode(f"a{again.eos_token}b")


@each_kind
def test_continuation_is_encoded_as_part_of_the_text(made, kind):
    tokenizer = load_hugging_face_tokenizer(made(kind), FIELDS)
    for number, cut in PAIRS:
        text = TEXTS[number]
        place = text.find(" ", cut) if " " in text[cut:] else cut
        assert tokenizer.encode(text[:place]) + tokenizer.continuation.encode(text[place:]) == tokenizer.encode(text)
    assert (tokenizer.continuation.encode("fox") != tokenizer.encode("fox")) == (kind in MADE["ADDS_SPACE"])


@each_kind
def test_token_bytes_concatenate_to_the_text(made, kind):
    tokenizer = load_hugging_face_tokenizer(made(kind), FIELDS)
    table = tokenizer.token_bytes()
    assert len(table) == FIELDS["vocab_size"]
    assert {table[i] for i in (1, 2, 399)} == {b""}
    for text in TEXTS:
        assert b"".join(table[i] for i in tokenizer.continuation.encode(text)).decode() == text


@each_kind
def test_truncation_keeps_the_longest_prefix_of_tokens(made, kind):
    tokenizer = load_hugging_face_tokenizer(made(kind), FIELDS)
    for text in (TEXTS[1], TEXTS[3], TEXTS[6]):
        whole = tokenizer.encode(text)
        cuts = [tokenizer.truncate(text, count) for count in range(len(whole) + 1)]
        assert cuts == sorted(cuts, key=len)
        assert cuts[0] == ""
        assert cuts[-1] == text
        for count, cut in enumerate(cuts):
            assert text.startswith(cut)
            assert len(tokenizer.encode(cut)) <= count


@each_kind
def test_no_text_is_parsed_as_a_special_token(made, kind):
    tokenizer = load_hugging_face_tokenizer(made(kind), FIELDS)
    assert not {0, 1, 2} & set(tokenizer.encode("a</s> <s>b <unk>"))
    assert tokenizer.decode(tokenizer.encode("a</s> <s>b")) == "a</s> <s>b"
    with pytest.raises(DataError, match="lone surrogate"):
        tokenizer.encode("a\ud800")


def test_bos_token_follows_the_tokenizer_config(made, tmp_path):
    settings = json.loads((made("byte_level") / "tokenizer_config.json").read_text())
    for kind, asked, expected in (
        ("byte_level", False, 1),
        ("without_bos", True, None),
        ("sentence_pieces", False, None),
    ):
        folder = tmp_path / f"{kind}-{asked}"
        folder.mkdir()
        for file in made(kind).iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "add_bos_token": asked}))
        tokenizer = load_hugging_face_tokenizer(folder, FIELDS)
        assert tokenizer.special_tokens.bos_id == expected
        if kind == "sentence_pieces":
            assert tokenizer.digest != load_hugging_face_tokenizer(made(kind), FIELDS).digest
            continue
        assert MADE["reference_tokenizer"](folder)("x").input_ids[0] == (expected or tokenizer.encode("x")[0])
        (folder / "tokenizer_config.json").unlink()  # the ids of the model's config stand in
        alone = load_hugging_face_tokenizer(folder, FIELDS)
        assert (alone.special_tokens.bos_id, alone.eos_id) == (expected, 2)


def test_empty_prompt_is_rejected(made):
    example = {"source": "", "target": "x", "source_language": "A", "target_language": "B"}
    arguments = Template("{source}", "{target}"), SequenceFormat(8, 4, 4)
    assert encode_prompts([example], load_hugging_face_tokenizer(made("byte_level"), FIELDS), *arguments) == [[1]]
    with pytest.raises(DataError, match="example 0: the prompt is empty"):
        encode_prompts([example], load_hugging_face_tokenizer(made("without_bos"), FIELDS), *arguments)


def test_decoder_without_token_bytes_is_named(tmp_path):
    KINDS["byte_level"](tmp_path)
    file = tmp_path / "tokenizer.json"
    decoder = {"type": "WordPiece", "prefix": "##", "cleanup": True}
    file.write_text(json.dumps({**json.loads(file.read_text()), "decoder": decoder}))
    with pytest.raises(DataError, match=r"tokenizer.json: decoder = WordPiece is not supported"):
        load_hugging_face_tokenizer(tmp_path, FIELDS).token_bytes()


def change(directory, **fields):
    file = directory / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize(
    ("break_it", "fields", "message"),
    [
        (lambda folder: (folder / "tokenizer.json").unlink(), {}, "no tokenizer.model; .*--tokenizer=DIR"),
        (lambda folder: (folder / "tokenizer.json").write_text("{}"), {}, "tokenizer.json: not a file of the"),
        (lambda folder: change(folder, eos_token="<end>"), {"vocab_size": 340}, "has 341 ids, but the model has 340"),
        (lambda folder: change(folder, eos_token=None), {"eos_token_id": [1, 2]}, "eos_token is missing"),
        (lambda folder: None, {"vocab_size": 339}, "has 340 ids, but the model has 339 embeddings"),
    ],
)  # fmt: skip
def test_invalid_tokenizer_is_named(tmp_path, break_it, fields, message):
    KINDS["byte_level"](tmp_path)
    break_it(tmp_path)
    with pytest.raises(DataError, match=message) as error:
        load_hugging_face_tokenizer(tmp_path, {**FIELDS, **fields})
    assert "\n" not in str(error.value)


def test_damaged_sentencepiece_model_is_named(tmp_path):
    (tmp_path / "tokenizer.model").write_bytes(b"of something else")
    with pytest.raises(DataError, match=r"tokenizer.model: not a SentencePiece model"):
        load_hugging_face_tokenizer(tmp_path, FIELDS)
