"""Every documented tokenizer file and setting has the ids of transformers, or is refused with its name."""

import json
import pickle
import runpy
import shutil
from pathlib import Path

import pytest
from tokenizers import AddedToken, processors
from transformers import AutoTokenizer, LlamaTokenizer

from finetune_scaling.data.tokenizers.hugging_face import load_hugging_face_tokenizer
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import DataError, UserError

TESTS = Path(__file__).parents[1]
MADE = runpy.run_path(str(TESTS / "public_tokenizers.py"))
DOCUMENTED = runpy.run_path(str(TESTS / "documented_rows.py"))["documented_rows"]("Tokenizer files")
FIELDS = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
TEXTS = (*MADE["TEXTS"], *MADE["SPACED"], "a <fox> , and <word>s .\n\n  it ' s", "x", "")
FAST, CONFIG = "tokenizer.json", "tokenizer_config.json"
ADDED = {
    "content": "<word>",
    "single_word": False,
    "lstrip": False,
    "rstrip": True,
    "normalized": False,
    "special": False,
}
SPECIAL = {**ADDED, "content": "<|end|>", "rstrip": False, "special": True}


def edit(name=CONFIG, remove=(), **fields):
    """Return a function that changes fields of a JSON file."""

    def change(folder):
        old = json.loads((folder / name).read_text()) if (folder / name).exists() else {}
        kept = {key: value for key, value in old.items() if key not in remove}
        (folder / name).write_text(json.dumps({**kept, **fields}))

    return change


def write(name, content):
    """Return a function that writes a JSON file."""
    return lambda folder: (folder / name).write_text(json.dumps(content))


def no_file(name):
    return lambda folder: (folder / name).unlink()


def post_process(single):
    """Return a function that sets the post-processor of tokenizer.json."""
    template = processors.TemplateProcessing(single=single, special_tokens=[("<s>", 1), ("</s>", 2)])
    return edit(FAST, post_processor=json.loads(template.__getstate__()))


def plain_pieces(folder):
    """Replace a tokenizer by the vocabulary and merges of GPT-2's format."""
    model = json.loads((folder / FAST).read_text())["model"]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    (folder / FAST).unlink()


def both_files(folder):
    """Add a tokenizer.model with other ids."""
    MADE["KINDS"]["sentence_pieces"](folder / "other")
    shutil.copy(folder / "other" / "tokenizer.model", folder)


def templates(default=None, /, **additional):
    """Return a function that writes files of chat templates."""

    def change(folder):
        (folder / "additional_chat_templates").mkdir()
        for name, text in additional.items():
            (folder / "additional_chat_templates" / f"{name}.jinja").write_text(text)
        if default is not None:
            (folder / "chat_template.jinja").write_text(default)

    return change


def of_class(name, model_type=None, **settings):
    """Return a function that names a class, whose default special tokens the vocabulary lacks, and a model's type."""

    def change(folder):
        edit(tokenizer_class=name, pad_token="<unk>", mask_token="<unk>", **settings)(folder)
        if model_type:
            write("config.json", {"model_type": model_type, **FIELDS})(folder)

    return change


# Kind and changes of the tokenizers of each row that is read.
READ = {
    "`tokenizer.json`": [("byte_level",), ("qwen",), ("gemma",)],
    "`tokenizer.json` and `tokenizer.model`": [("byte_level", both_files)],
    "`tokenizer.model` with `add_bos_token`": [
        ("sentence_pieces",), ("sentence_pieces", edit(add_bos_token=False)), ("sentence_pieces", edit(legacy=False)),
    ],
    "`added_tokens_decoder` next to `tokenizer.json`": [
        ("byte_level", edit(added_tokens_decoder={"340": ADDED, "341": SPECIAL}, eos_token="<|end|>")),
        ("byte_fallback", edit(added_tokens_decoder={"7": {**ADDED, "content": "<fox>", "rstrip": True}})),
        ("byte_level", edit(added_tokens_decoder={}), write("added_tokens.json", {"<word>": 340})),
    ],
    "`added_tokens.json` next to `tokenizer.json`": [
        ("byte_level", write("added_tokens.json", {"<word>": 340, "<fox>": 341})),
        ("byte_level", write("added_tokens.json", {"<fox>": 340}), edit(pad_token="<fox>")),
    ],
    "`special_tokens_map.json`": [
        ("byte_level", write("special_tokens_map.json", {"eos_token": "<s>", "pad_token": SPECIAL})),
        ("byte_level", edit(remove=["eos_token"]), write("special_tokens_map.json", {"eos_token": "<unk>"})),
        (
            "byte_level", edit(added_tokens_decoder={"2": {**SPECIAL, "content": "</s>"}}),
            write("special_tokens_map.json", {"eos_token": "<s>"}),
        ),
    ],
    "`extra_special_tokens`, `additional_special_tokens`, `*_token`": [
        ("byte_level", edit(additional_special_tokens=["<word>", SPECIAL | {"__type": "AddedToken"}])),
        ("byte_level", edit(extra_special_tokens={"image_token": "<word>"}, audio_token="<fox>")),
        ("byte_level", edit(extra_special_tokens=["<fox>"], pad_token="[PAD]")),
    ],
    "special tokens added next to `tokenizer.model`": [
        ("sentence_pieces", edit(added_tokens_decoder={"340": SPECIAL}, eos_token="<|end|>")),
        ("sentence_pieces", write("added_tokens.json", {"[PAD]": 340}), edit(pad_token="[PAD]")),
    ],
    "`add_bos_token`, `add_eos_token` next to `tokenizer.json`": [
        ("byte_level", edit(add_bos_token=False)), ("without_bos", edit(add_bos_token=True, add_eos_token=True)),
        ("metaspace", edit(add_bos_token=False, tokenizer_class="LlamaTokenizer")),
    ],
    "`post_processor`: none, bos, eos": [
        ("byte_level", edit(FAST, post_processor=None)), ("byte_level", post_process("$A")),
        ("byte_level", post_process("<s> $A </s>")),
    ],
    "`truncation`, `padding` in `tokenizer.json`": [
        (
            "byte_level",
            edit(FAST, truncation={"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}),
        ),
        (
            "byte_level",
            edit(FAST, padding={"strategy": {"Fixed": 64}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 0,
                                "pad_type_id": 0, "pad_token": "<unk>"}),
        ),
    ],
    "`clean_up_tokenization_spaces`, `model_max_length`, `padding_side`": [
        ("byte_level", edit(clean_up_tokenization_spaces=True, model_max_length=3, padding_side="left")),
        ("byte_fallback", edit(clean_up_tokenization_spaces=True)),
    ],
    "`tokenizer_class`, `model_type`, `add_prefix_space`, `legacy`": [
        ("byte_fallback", of_class("LlamaTokenizerFast")), ("byte_fallback", of_class("LlamaTokenizer", legacy=True)),
        ("byte_fallback", of_class("LlamaTokenizer", "mistral")), ("byte_fallback", of_class(None, "llama")),
        ("metaspace", of_class("LlamaTokenizer", add_prefix_space=True)), ("gemma", of_class("LlamaTokenizer")),
        ("metaspace", of_class("LlamaTokenizer", add_prefix_space=False)), ("gemma", of_class("GemmaTokenizerFast")),
        ("byte_level", of_class("LlamaTokenizerFast")), ("llama3", of_class("PreTrainedTokenizerFast", "llama")),
        ("llama3", of_class("PreTrainedTokenizer", "qwen2")), ("llama3", of_class("Qwen2Tokenizer", "llama")),
        ("qwen", of_class("GPT2Tokenizer", "llama")), ("qwen", of_class("GPT2Tokenizer", "olmo2")),
        ("byte_level", of_class(None, "gpt_neox")), ("byte_level", of_class("GPTNeoXTokenizer", "llama")),
        ("byte_level", of_class("GPT2Tokenizer", add_prefix_space=True)), ("gpt_neox", of_class(None, "qwen3")),
        ("byte_level", of_class("GPT2Tokenizer", added_tokens_decoder={"341": SPECIAL})),
    ],
    "`chat_template.jinja`, `chat_template`, `additional_chat_templates`": [
        ("byte_level", edit(chat_template="config"), templates("default file")),
        ("byte_level", edit(chat_template=[{"name": "default", "template": "config"}])),
        ("byte_level", templates("default file", rag="rag file")),
        ("byte_level", templates("default file", default="in the folder"), edit(chat_template="config")),
        ("byte_level", templates(default="in the folder", rag="rag file")),
    ],
    "`auto_map`": [("byte_level", edit(auto_map={"AutoTokenizer": ["code.Tokenizer", None]}))],
}  # fmt: skip

# Kind, fields of the model, changes, and part of the message of each row that is refused.
REFUSED = {
    "`tokenizer.model` without `add_bos_token`": [
        ("sentence_pieces", {}, edit(remove=["add_bos_token"]), "tokenizer_config.json: add_bos_token is missing"),
        ("sentence_pieces", {}, edit(add_bos_token="yes"), "add_bos_token = 'yes' is neither"),
    ],
    "tokens added to texts next to `tokenizer.model`": [
        ("sentence_pieces", {}, write("added_tokens.json", {"<word>": 340}), "tokenizer.model: .* add '<word>'"),
        ("sentence_pieces", {}, edit(added_tokens_decoder={"340": ADDED}), "tokenizer.model: .* add '<word>'"),
    ],
    "added tokens with other ids than `tokenizer.model` leaves": [
        ("sentence_pieces", {}, edit(added_tokens_decoder={"345": SPECIAL}), "the id 345, but it would be 340"),
        ("sentence_pieces", {}, edit(added_tokens_decoder={"1": SPECIAL}), "the id 1, but it would be 340"),
    ],
    "several chat templates, none of them `default`": [
        ("byte_level", {}, edit(chat_template={"rag": "x"}), "name one of them 'default'"),
        ("byte_level", {}, templates(rag="x"), "has the chat templates rag; name one of them 'default'"),
    ],
    "`vocab.json` and `merges.txt`, `vocab.txt`, `tekken.json`, `spiece.model` alone": [
        ("byte_level", {}, plain_pieces, "vocab.json and merges.txt, transformers writes a tokenizer.json"),
    ],
    "a tokenizer with more ids than the model has embeddings": [
        ("byte_level", {"vocab_size": 339}, edit(), "has 340 ids, but the model has 339 embeddings"),
        ("byte_level", {"vocab_size": 340}, edit(pad_token="[PAD]"), "has 341 ids, but the model has 340 embeddings"),
    ],
    "`add_prefix_space` that contradicts `tokenizer.model`": [
        ("sentence_pieces", {}, edit(add_prefix_space=False), "add_prefix_space = False, but .* adds a space"),
    ],
    "other classes of transformers": [
        ("byte_level", {}, edit(tokenizer_class="CohereTokenizer"), "tokenizer_class = 'CohereTokenizer' is not a"),
    ],
    "`post_processor` with other tokens": [
        ("byte_level", {}, post_process("<s> <s> $A"), "post_processor adds 2 tokens in front of a text"),
        ("byte_level", {}, post_process("$A <s>"), "and 1 after it"),
    ],
    "`fast_tokenizer_files` with other names": [
        ("byte_level", {}, edit(fast_tokenizer_files=[FAST, "tokenizer.4.0.0.json"]), "fast_tokenizer_files = .* only"),
    ],
    "damaged tokenizer files": [
        ("byte_level", {}, edit(chat_template=[{"name": "x"}]), "chat_template is neither a template nor several"),
        ("byte_level", {}, edit(chat_template=["x"]), "chat_template is neither a template nor several"),
        ("byte_level", {}, edit(chat_template={"default": 3}), "chat_template is neither a template nor several"),
        ("byte_level", {}, edit(eos_token=3, remove=["eos_token"]), "eos_token = 3 is not a token"),
        ("byte_level", {}, edit(added_tokens_decoder=[3]), "added_tokens_decoder: not a JSON object"),
        ("byte_level", {}, edit(added_tokens_decoder={"x": ADDED}), "'x' is not the id of a token"),
        ("byte_level", {}, write("added_tokens.json", {"<word>": "many"}), "'many' is not the id of a token"),
        ("byte_level", {}, edit(pad_token={"content": "a", "color": "red"}), "pad_token = .* is not a token"),
        ("byte_level", {}, write(CONFIG, [1]), "tokenizer_config.json: holds no JSON object"),
        ("byte_level", {}, edit(extra_special_tokens="<a>"), "extra_special_tokens = '<a>' is not a list"),
        ("byte_level", {}, write("special_tokens_map.json", {"pad_token": 3}), "_map.json: pad_token = 3 is not a"),
        (
            "byte_level", {}, write("special_tokens_map.json", {"additional_special_tokens": [3]}),
            "special_tokens_map.json: additional_special_tokens = 3 is not a token",
        ),
    ],
    "no `eos_token` in any file": [
        ("byte_level", {"eos_token_id": [1, 2]}, edit(remove=["eos_token"]), "eos_token is missing"),
        *(
            ("byte_level", {"eos_token_id": value}, edit(remove=["eos_token"]), f"eos_token_id = {value} of config")
            for value in (400, -1, True)
        ),
        ("sentence_pieces", {"bos_token_id": 400}, edit(remove=["bos_token"]), "bos_token_id = 400 of config.json"),
    ],
}  # fmt: skip


@pytest.fixture(scope="session")
def changed(tmp_path_factory):
    """changed(kind, *changes) -> a changed copy of a tokenizer's directory."""
    made = tmp_path_factory.mktemp("tokenizers")

    def change(kind, *changes):
        if not (made / kind).exists():
            MADE["KINDS"][kind](made / kind)
        folder = tmp_path_factory.mktemp("changed")
        shutil.copytree(made / kind, folder, dirs_exist_ok=True)
        for one in changes:
            one(folder)
        return folder

    return change


def reference(folder):
    """Return the tokenizer of transformers.

    Its reader of tokenizer.model needs a newer protobuf than other packages allow, so it gets the pieces.
    """
    if (folder / FAST).exists():
        return AutoTokenizer.from_pretrained(folder)
    pieces = MADE["reference_tokenizer"](folder)
    settings = json.loads((folder / CONFIG).read_text())
    recorded = {int(number): token for number, token in settings.get("added_tokens_decoder", {}).items()}
    if (folder / "added_tokens.json").exists():
        recorded = {number: {**SPECIAL, "content": content} for content, number in
                    json.loads((folder / "added_tokens.json").read_text()).items()}  # fmt: skip
    added = {number: AddedToken(**token) for number, token in recorded.items()}
    return LlamaTokenizer(
        pieces._vocab, pieces._merges, add_bos_token=settings["add_bos_token"], added_tokens_decoder=added,
        eos_token=settings["eos_token"],
    )  # fmt: skip


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in READ.items() for case in cases])
def test_ids_and_texts_are_those_of_transformers(row, case, changed):
    folder = changed(*case)
    model = json.loads((folder / "config.json").read_text()) if (folder / "config.json").exists() else FIELDS
    tokenizer, expected = load_hugging_face_tokenizer(folder, model), reference(folder)
    special = tokenizer.special_tokens
    front = [] if special.bos_id is None else [special.bos_id]
    assert (special.eos_id, tokenizer.vocab_size) == (expected.eos_token_id, len(expected))
    end = [special.eos_id] if expected("x").input_ids[-1] == special.eos_id else []
    for text in TEXTS:
        ids = tokenizer.encode(text)
        assert front + ids + end == expected(text, split_special_tokens=True).input_ids, text
        assert tokenizer.decode(ids) == expected.decode(ids, skip_special_tokens=True)
    assert tokenizer.decode([special.eos_id]) == expected.decode([special.eos_id], skip_special_tokens=True) == ""
    if expected.chat_template is not None:
        assert tokenizer.chat_format.template == expected.get_chat_template()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **model}))
    assert load_tokenizer(folder).digest == tokenizer.digest


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in REFUSED.items() for case in cases])
def test_other_files_and_settings_are_refused(row, case, changed):
    kind, fields, change, message = case
    with pytest.raises(UserError, match=message) as error:
        load_hugging_face_tokenizer(changed(kind, change), {**FIELDS, **fields})
    assert "\n" not in str(error.value)


def test_wrong_ids_of_a_converted_model_are_located_in_its_fields(changed):
    fields = {**FIELDS, "generation_config": {"eos_token_id": "x"}}
    folder = changed("byte_level", write("model_fields.json", fields))
    with pytest.raises(DataError, match=r"model_fields\.json: generation_config: eos_token_id = 'x' is neither an id"):
        load_tokenizer(folder)


def test_every_documented_row_has_a_case():
    assert {**dict.fromkeys(READ, "read"), **dict.fromkeys(REFUSED, "refused")} == DOCUMENTED


@pytest.mark.parametrize("change", [edit(pad_token="[PAD]"), write("added_tokens.json", {"<word>": 340})])
def test_added_tokens_change_the_digest(change, changed):
    plain, other = (load_hugging_face_tokenizer(changed("byte_level", *what), FIELDS) for what in ((), (change,)))
    assert plain.digest != other.digest
    assert plain.digest == load_hugging_face_tokenizer(changed("byte_level", edit(legacy=True)), FIELDS).digest


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (
            {"model_type": "llama", "vocab_size": None, "text_config": None},
            "vocab_size = None of the model is not a number",
        ),
        ({"model_type": "llama", "text_config": [3]}, "config.json: is not the config of a model"),
        ({"model_type": "llama", "vocab_size": 340, "eos_token_id": {}}, "config.json: eos_token_id = {} is neither"),
    ],
)
def test_model_fields_that_a_tokenizer_needs_are_checked(config, message, changed):
    with pytest.raises(DataError, match=message):
        load_tokenizer(changed("byte_level", write("config.json", config)))


def test_directory_of_a_model_names_that_of_its_tokenizer(changed, tmp_path):
    shutil.copytree(changed("byte_level"), tmp_path / "tokenizer")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=f"not of its tokenizer; give {tmp_path / 'tokenizer'}"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("kind", MADE["KINDS"])
def test_a_pickled_tokenizer_has_the_same_ids_and_no_text_more_than_its_bound(kind, tmp_path):
    MADE["KINDS"][kind](tmp_path)
    tokenizer = load_hugging_face_tokenizer(tmp_path, FIELDS)
    texts = (*TEXTS, "<s> a</s>", "\u0344\u1f82 \u01d5", "    ", "▁▁", "\u3042\U0001f600")
    pickled = pickle.loads(pickle.dumps(tokenizer))
    for own, other in ((tokenizer, pickled), (tokenizer.continuation, pickled.continuation)):
        assert other == own
        assert other.encode_batch(texts) == own.encode_batch(texts)
        assert all(len(own.encode(text)) <= own.max_ids(text) for text in texts)
    assert pickled.special_token_ids == tokenizer.special_token_ids
    assert (pickled.vocab_size, pickled.special_tokens) == (tokenizer.vocab_size, tokenizer.special_tokens)
