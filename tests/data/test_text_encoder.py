"""Prompts and targets: joined, they have the ids that transformers gives the text in one piece."""

import json
import lzma
import runpy
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat, encode_examples, encode_prompts
from finetune_scaling.data.templates import SUMMARIZATION, TRANSLATION, Template
from finetune_scaling.data.tokenizers.hugging_face import load_hugging_face_tokenizer
from finetune_scaling.errors import ConfigError

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_tokenizers.py"))
FIELDS = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
LONG = SequenceFormat(length=4000, max_source_tokens=1900, max_target_tokens=1900)
ENDS = (": ", ":\n", ":  ", ":\n\n", " =", ": \n ", "")
WORDS = ("the", "Fuchs", "\u00fcber", "\u041b\u0438\u0441\u0430", "\u4f60\u597d", "3", "(x)", "...")


@pytest.fixture(scope="module", params=MADE["KINDS"])
def pair(request, tmp_path_factory):
    """Our tokenizer and transformers', of one kind."""
    folder = tmp_path_factory.mktemp("tokenizer")
    MADE["KINDS"][request.param](folder)
    return load_hugging_face_tokenizer(folder, FIELDS), MADE["reference_tokenizer"](folder)


def example(source, target, languages=("en", "de")):
    return {"source": source, "target": target, "source_language": languages[0], "target_language": languages[1]}


def joined_ids(tokenizer, template, one):
    """Return the ids of prompt and target, without eos."""
    encoded = encode_examples([one], tokenizer, template, LONG)
    assert encoded.has_eos.all()
    return encode_prompts([one], tokenizer, template, LONG)[0] + encoded.targets.item(0).tolist()


@pytest.mark.parametrize("end", ENDS)
def test_joined_ids_are_those_of_the_text_in_one_piece(pair, end):
    tokenizer, reference = pair
    for source in MADE["TEXTS"][1:4:2]:
        for target in (*MADE["TEXTS"][::2], *WORDS):
            ids = joined_ids(tokenizer, Template("{source}" + end), example(source, target))
            assert ids == reference(source + end + target).input_ids, (source, target)


@pytest.mark.parametrize(
    "source", ["the lazy dog ", "dog.  ", "Fuchs\n", "Fuchs\n ", "dog\t", "3 \n\n", "dog\u00a0", "x" + 99 * " "]
)
@pytest.mark.parametrize("end", ["", " ", ": "])
def test_whitespace_at_the_end_of_a_source(pair, source, end):
    tokenizer, reference = pair
    for target in WORDS:
        ids = joined_ids(tokenizer, Template("{source}" + end), example(source, target))
        assert ids == reference(source + end + target).input_ids, target


@pytest.mark.parametrize("template", [TRANSLATION, SUMMARIZATION])
def test_default_templates_end_in_no_lone_space(pair, template):
    tokenizer, reference = pair
    one = example("the lazy dog", "the Fuchs")
    prompt = encode_prompts([one], tokenizer, template, LONG)[0]
    assert prompt == reference(template.render(one)[0].rstrip(" ")).input_ids
    generated = joined_ids(tokenizer, template, one)[len(prompt) :]
    assert tokenizer.decode(generated).strip() == "the Fuchs"


def test_joined_ids_of_real_text(pair, shared_data):
    tokenizer, reference = pair
    for target_language in ("de", "zh"):
        with lzma.open(
            shared_data / "mt_news" / f"en-{target_language}.valid.jsonl.xz", "rt", encoding="utf-8"
        ) as file:
            records = [json.loads(next(file)) for _ in range(8)]
        for record in records:
            one = example(record["en"], record[target_language], ("en", target_language))
            text = "".join(TRANSLATION.render(one))
            assert joined_ids(tokenizer, TRANSLATION, one) == reference(text).input_ids


@settings(max_examples=30, deadline=None)
@given(st.text("ab c\u00e9\u4e2d\n.:", max_size=12), st.sampled_from(ENDS), st.sampled_from(WORDS))
def test_tokenizers_of_this_project_keep_their_ids(tokenizer, source, end, target):
    template = Template("{source}" + end)
    assert make_encoder(tokenizer, template).identity == ""
    ids = [tokenizer.bos_id, *tokenizer.encode(source + end), *tokenizer.encode(target)]
    assert joined_ids(tokenizer, template, example(source, target)) == ids


def test_stop_strings_in_what_every_target_begins_with(pair):
    encoder = make_encoder(pair[0], TRANSLATION)
    assert encoder.spaces == " "
    assert encoder.identity
    encoder.check_stop_strings(("\n", "x"))
    with pytest.raises(ConfigError, match=r"decoding\.stop has ' '"):
        encoder.check_stop_strings(("\n", " "))
