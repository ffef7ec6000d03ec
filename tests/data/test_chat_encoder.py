"""Chat templates: prompts and complete conversations have the ids of apply_chat_template of transformers."""

import json
import logging
import runpy
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from finetune_scaling.data.chat_template import ChatTemplate
from finetune_scaling.data.encoders.make import make_encoder
from finetune_scaling.data.encoding import SequenceFormat, encode_documents, encode_examples, encode_prompts
from finetune_scaling.data.task import load_task
from finetune_scaling.data.templates import Template
from finetune_scaling.data.tokenizers.hugging_face import load_hugging_face_tokenizer
from finetune_scaling.errors import ConfigError, DataError

CHAT = runpy.run_path(str(Path(__file__).parents[1] / "chat_models.py"))
FIELDS = {"vocab_size": 400, "bos_token_id": 1, "eos_token_id": 2}
LONG = SequenceFormat(length=900, max_source_tokens=300, max_target_tokens=300)
INPUT = "Into {target_language}: {source}"
TEXTS = (("the lazy dog", "der Fuchs"), ("  Two  spaces\n", " x "), ("\u4f60\u597d", "\n\u00fc"), ("a", ""))
VARIABLES = {"thinking": {"enable_thinking": False}, "llama3": {"date_string": "26 Jul 2024"}}
END = {"gemma": "<end_of_turn>", "llama3": "<|eot_id|>", "chatml": "<|im_end|>", "thinking": "<|im_end|>"}


@pytest.fixture(scope="module", params=CHAT["MODELS"])
def chat(request, tmp_path_factory):
    """The name of a chat model, our tokenizer, and transformers'."""
    folder = tmp_path_factory.mktemp("chat")
    CHAT["save_chat_model"](request.param, folder, in_config="llama" in request.param)
    return request.param, load_hugging_face_tokenizer(folder, FIELDS), AutoTokenizer.from_pretrained(folder)


def example(source, target):
    return {"source": source, "target": target, "source_language": "en", "target_language": "de"}


@pytest.mark.parametrize("system", ["", "Answer in {target_language}."])
def test_ids_are_those_of_transformers(chat, system):
    name, tokenizer, reference = chat
    if name == "gemma" and system:
        with pytest.raises(ConfigError, match=r"System role not supported\). Fix: leave out"):
            make_encoder(tokenizer, ChatTemplate(system=system))
        return
    template = ChatTemplate(INPUT, system=system, variables=VARIABLES.get(name, {}))
    end = reference.convert_tokens_to_ids(END.get(name, "</s>"))
    for source, target in TEXTS:
        messages = [{"role": "system", "content": "Answer in German."}] if system else []
        messages.append({"role": "user", "content": f"Into German: {source}"})
        apply = dict(tokenize=True, return_dict=False, **template.variables)
        prompt = reference.apply_chat_template(messages, add_generation_prompt=True, **apply)
        full = reference.apply_chat_template([*messages, {"role": "assistant", "content": target}], **apply)
        one = example(source, target)
        assert encode_prompts([one], tokenizer, template, LONG) == [prompt]
        encoded = encode_examples([one], tokenizer, template, LONG)
        sequence = encoded.sequence(0, LONG)
        ids = [*sequence.tokens.tolist(), int(sequence.targets[-1])]
        assert ids[-1] == end == encoded.special_tokens.eos_id
        if full[: len(prompt)] == prompt:
            assert (ids == full[: len(ids)]) == (name != "plain")  # its messages end in no token
            assert reference.decode(full[len(ids) :]).strip() == ""
        else:  # a line break or space of the prompt and one of the target are one token
            assert ids[: len(prompt)] == prompt
            assert name == "plain" or target[0] == "\n"
        assert sequence.weights.sum() == len(ids) - len(prompt)
        assert tokenizer.decode(encoded.targets.item(0)).strip() == target.strip()


def test_special_tokens_of_the_data_are_counted(chat, caplog):
    _, tokenizer, _ = chat
    examples = [example("a", "b</s>"), example("<s> a", "b </s>"), example("a", "b")]
    for template, effect in ((Template("{source} ="), "plain text"), (ChatTemplate("{source}"), "as these tokens")):
        if isinstance(template, ChatTemplate) and chat[0] in VARIABLES:
            continue
        with caplog.at_level(logging.WARNING):
            encoded = encode_examples(examples, tokenizer, template, LONG)
        assert encoded.statistics["special_tokens"] == {"</s>": 2, "<s>": 1}
        assert "</s> in 2, <s> in 1" in caplog.records[-1].getMessage()
        assert effect in caplog.records[-1].getMessage()
    assert (
        "special_tokens" not in encode_examples([example("a", "b")], tokenizer, Template("{source}"), LONG).statistics
    )


def test_special_tokens_in_a_template_are_refused(chat, tokenizer):
    name, theirs, _ = chat
    for pattern in ("{source}</s>", "<s>{source}:"):
        with pytest.raises(ConfigError, match=r"template.input contains the special token '</?s>'.*'chat'"):
            make_encoder(theirs, Template(pattern))
    with pytest.raises(ConfigError, match=r"template.target contains the special token"):
        make_encoder(theirs, ChatTemplate(target="{target}" + END.get(name, "</s>"), variables=VARIABLES.get(name, {})))
    for field in ("system", "input"):
        with pytest.raises(ConfigError, match=rf"template.{field} contains .* would be this token within a message"):
            make_encoder(theirs, ChatTemplate(**{field: "</s>" + "{source}" * (field == "input")}))
    named = {"languages": {"de": "German</s>"}}
    for template in (Template("{source}", **named), ChatTemplate(**named)):
        with pytest.raises(ConfigError, match=r"template.languages\['de'\] contains the special token '</s>'"):
            make_encoder(theirs, template)
    with pytest.raises(ConfigError, match=r"template.target contains the special token '</s>'"):
        make_encoder(tokenizer, Template("{source}", "{target}</s>"))


@pytest.mark.parametrize("other", ["[INST]", "[EOS]", "<|eom_id|>", "<\uff5cend\u2581of\u2581sentence\uff5c>"])
def test_other_special_tokens_in_a_template_are_text(other, tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        make_encoder(tokenizer, Template(other + " {source}", "{target}"))
    assert f"template.input contains {other}, which is no special token" in caplog.text


def test_special_tokens_of_prompts_and_documents_are_counted(tokenizer, caplog):
    with caplog.at_level(logging.WARNING):
        encode_prompts([example("<|im_start|>user", "b")], tokenizer, Template("{source} ="), LONG)
    assert "1 prompts: texts contain special tokens (<|im_start|> in 1)" in caplog.text
    encoded = encode_documents(["a</s>", "a", "</s> </s>"], tokenizer, 10)
    assert encoded.statistics["special_tokens"] == {"</s>": 2}
    assert "3 documents: texts contain special tokens (</s> in 2)" in caplog.text


@pytest.mark.parametrize("name", ["messages", "tools", "documents", "add_generation_prompt"])
def test_reserved_variables_are_refused(name):
    with pytest.raises(ConfigError, match=rf"template.variables has '{name}'"):
        ChatTemplate(variables={name: []})


def test_tokenizer_without_a_chat_template(tokenizer, tmp_path):
    CHAT["KINDS"]["byte_level"](tmp_path)
    for one in (tokenizer, load_hugging_face_tokenizer(tmp_path, FIELDS)):
        with pytest.raises(ConfigError, match="has no chat template"):
            make_encoder(one, ChatTemplate())


@pytest.mark.parametrize(
    ("name", "template", "message"),
    [
        ("thinking", None, r"begins the assistant's message with '<think>.*enable_thinking"),
        ("chatml", CHAT["CHATML"].replace("+ message['content']", "", 1), "leaves out the message of the user"),
        ("chatml", CHAT["CHATML"].replace("<|im_end|>", "<end>"), "ends the assistant's message with '<end>"),
        ("chatml", "{{ messages[", r"the chat template rejects messages of user"),
        (
            "chatml",
            "{% if add_generation_prompt %}{{ messages[0].content }}?{% endif %}",
            "does not write the assistant",
        ),
    ],
)
def test_chat_templates_that_cannot_be_trained(name, template, message, tmp_path):
    CHAT["save_chat_model"](name, tmp_path)
    if template is not None:
        (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(ConfigError, match=message) as error:
        make_encoder(load_hugging_face_tokenizer(tmp_path, FIELDS), ChatTemplate())
    assert "Fix: " in str(error.value)


@pytest.mark.parametrize("as_object", [False, True])
def test_several_templates_in_the_config(as_object, tmp_path):
    CHAT["save_chat_model"]("chatml", tmp_path, in_config=True)
    file = tmp_path / "tokenizer_config.json"
    config = json.loads(file.read_text())
    named = [{"name": name, "template": config["chat_template"]} for name in ("rag", "default")]
    by_name = {entry["name"]: entry["template"] for entry in named}
    file.write_text(json.dumps({**config, "chat_template": by_name if as_object else named}))
    encoder = make_encoder(load_hugging_face_tokenizer(tmp_path, FIELDS), ChatTemplate())
    ids = AutoTokenizer.from_pretrained(tmp_path).apply_chat_template(
        [{"role": "user", "content": "fox"}], add_generation_prompt=True, return_dict=False
    )
    assert encoder.inputs([example("fox", "x")]) == [ids]
    file.write_text(json.dumps({**config, "chat_template": named[:1]}))
    with pytest.raises(DataError, match="name one of them 'default'"):
        load_hugging_face_tokenizer(tmp_path, FIELDS)


def test_sentencepiece_files_alone_are_refused(tmp_path):
    CHAT["KINDS"]["sentence_pieces"](tmp_path)
    (tmp_path / "chat_template.jinja").write_text(CHAT["LLAMA2"])
    encoder = make_encoder(load_hugging_face_tokenizer(tmp_path, FIELDS), ChatTemplate())
    with pytest.raises(DataError, match=r"a chat template needs tokenizer.json"):
        encoder.inputs([example("a", "b")])


def test_dates_in_a_chat_template_are_said(tmp_path, caplog):
    CHAT["save_chat_model"]("llama3", tmp_path)
    with caplog.at_level(logging.WARNING):
        make_encoder(load_hugging_face_tokenizer(tmp_path, FIELDS), ChatTemplate())
    assert "date_string" in caplog.text


@pytest.mark.parametrize("given", ["chat", {"name": "chat"}])
def test_the_chat_template_in_a_config(given):
    template = load_task({"name": "mlsum", "template": given}).template
    assert template == ChatTemplate("{source}", "{target}")
    changed = load_task({"name": "debian_en_de", "template": {"name": "chat", "input": INPUT, "system": None}}).template
    assert (changed.input, changed.system, type(changed)) == (INPUT, "", ChatTemplate)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("chats", r"template = 'chats' is neither 'chat' nor a group"),
        ({"name": "chats"}, r"template.name = 'chats' is unknown"),
        ({"name": "chat", "system": "{source}"}, r"template.system: unknown placeholder"),
        ({"name": "chat", "sistem": "x"}, r"did you mean 'system'"),
        ({"system": "x"}, r"template.system is not a field"),
    ],
)
def test_invalid_templates_in_a_config(given, message):
    with pytest.raises(ConfigError, match=message):
        load_task({"name": "debian_en_de", "template": given})
