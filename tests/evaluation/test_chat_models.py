"""A chat model from import to export: losses and texts in its chat format equal those of transformers."""

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from finetune_scaling import configuration
from finetune_scaling.data.task import jsonl_task
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.evaluation.task_evaluation import prepare_task_evaluation
from finetune_scaling.experiments.run import run as train
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.reading import load_run
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.model_loading import find_run, load_run_checkpoint
from finetune_scaling.runs.run_config import read_run_config

CHAT = runpy.run_path(str(Path(__file__).parents[1] / "chat_models.py"))
WORDS = ("the", "quick", "fox", "lazy", "dog", "jumps")
ROWS, NEW = 360, 12
TEXT = "the quick fox jumps"
TEMPLATE = {"name": "chat", "input": "Into {target_language}: {source}", "system": "Be brief."}


def sentence(number: int) -> str:
    return " ".join(WORDS[number * k % len(WORDS)] for k in range(1, 4))


def messages(source: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"Into German: {source}"}]


@pytest.fixture(scope="module")
def config(tmp_path_factory, shared_cache):
    """The config of a run of two steps on a random Llama with a ChatML template."""
    folder = tmp_path_factory.mktemp("chat")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=ROWS, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, eos_token_id=2, bos_token_id=1,
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    model.save_pretrained(folder / "model")
    CHAT["save_chat_model"]("chatml", folder / "model")
    import_model(ModelImport(str(folder / "model"), str(folder / "base")))
    for split, count in (("train", 24), ("dev", 4), ("test", 4)):
        lines = [json.dumps({"en": sentence(i), "de": sentence(i + 1)}) for i in range(count)]
        (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n")
    task = jsonl_task(
        name="chat", kind="translation", languages=("en", "de"), fields=("en", "de"), train="train.jsonl",
        dev="dev.jsonl", test={"test": "test.jsonl"}, template=TEMPLATE, sources={"data_dir": str(folder)},
    )  # fmt: skip
    return {
        "task": configuration.plain(task),
        "method": {"name": "lora", "rank": 2},
        "base": {"run": str(folder / "base")},
        "tokenizer": str(folder / "base" / "tokenizer"),
        "sequence": {"length": 160, "max_source_tokens": 40, "max_target_tokens": 40},
        "batch": {"size": 8},
        "schedule": {"learning_rate": 0.05},
        "limits": {"max_steps": 2},
        "evaluation": {
            "times": 1, "batch_size": 4, "generate_examples": 2, "decoding": {"max_new_tokens": NEW},
            "evaluators": {"few_shot_2": {"examples": 4, "generate": 0, "untuned": False}},
        },
    }  # fmt: skip


@pytest.fixture(scope="module")
def run(config, tmp_path_factory):
    directory = tmp_path_factory.mktemp("run")
    train(config, directory)
    return directory


def loss_sum(model, prompt: list[int], ids: list[int]) -> float:
    """Return transformers' loss summed over what follows the prompt, in nats."""
    tokens = torch.tensor([ids])
    labels = tokens.clone()
    labels[:, : len(prompt)] = -100
    with torch.no_grad():
        return float(model(tokens, labels=labels).loss) * (len(ids) - len(prompt))


def test_the_exported_run_is_the_chat_model_of_transformers(run, tmp_path):
    export_run(RunExport(str(run), model=str(tmp_path / "out")))
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    shown = [one["source"] for one in demonstrations(run)]
    for name in ("test", "few_shot_2.test"):
        for row in map(json.loads, (run / "evaluation" / f"{name}.jsonl").read_text().splitlines()):
            chat = messages(row["source"])
            if name != "test":
                turns = [{"role": "user", "content": f"Into German: {source}"} for source in shown]
                answers = [{"role": "assistant", "content": one["target"]} for one in demonstrations(run)]
                chat[1:1] = [turns[0], answers[0], turns[1], answers[1]]
            apply = {"tokenize": True, "return_dict": False}
            prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, **apply)
            full = tokenizer.apply_chat_template([*chat, {"role": "assistant", "content": row["reference"]}], **apply)
            ids = full[: len(full) - full[::-1].index(end)]  # up to the end token
            assert row["tokens"] == len(ids) - len(prompt)
            assert row["loss_sum"] == pytest.approx(loss_sum(model, prompt, ids), rel=1e-4)
            if "hypothesis" in row:
                tokens = torch.tensor([prompt])
                written = model.generate(
                    tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False,
                    eos_token_id=[end, 2], pad_token_id=0,
                )[0, len(prompt) :]  # fmt: skip
                assert row["hypothesis"] == tokenizer.decode(written, skip_special_tokens=True).strip()


def demonstrations(run) -> list[dict]:
    return json.loads((run / "evaluation" / "few_shot_2.json").read_text())["demonstrations"]


def test_a_checkpoint_of_another_chat_template_is_refused(run, config, tmp_path, monkeypatch):
    found = find_run(run)
    load_run_checkpoint(found)
    file = Path(config["base"]["run"]) / "tokenizer" / "chat_template.jinja"
    text = file.read_text()
    file.write_text(text.replace("Help", "Hinder"))
    try:
        with pytest.raises(CheckpointError, match="other token ids of the same examples"):
            load_run_checkpoint(found)
    finally:
        file.write_text(text)


def test_demonstrations_in_another_form_are_refused(config, run):
    run_config = read_run_config(config)
    evaluator = TaskEvaluator(shots=1, demonstration="{input}>{target}\n")
    with pytest.raises(ConfigError, match="demonstration is for text templates"):
        prepare_task_evaluation(evaluator, run_config, load_run_checkpoint(find_run(run)).tokenizer)


def test_losses_and_logits_of_a_text_equal_those_of_transformers(config):
    base = Path(config["base"]["run"])
    model = AutoModelForCausalLM.from_pretrained(base.with_name("model")).eval()
    tokenizer = AutoTokenizer.from_pretrained(base.with_name("model"))
    loaded, texts = load_run(base), [TEXT, TEXT * 3, "\u4f60\u597d"]
    for text, row in zip(texts, loaded.losses(texts).itertuples(), strict=True):
        ids = tokenizer(text, return_tensors="pt").input_ids  # the tokenizer adds no bos
        with torch.no_grad():
            theirs = model(ids, labels=ids)
        ours = loaded.logits(text)
        assert ours.ids.tolist() == ids[0].tolist()
        np.testing.assert_allclose(ours.logits, theirs.logits[0].numpy(), atol=2e-4)
        assert row.tokens == len(ours.ids) - 1
        assert row.loss == pytest.approx(float(theirs.loss), rel=1e-4)
        assert row.loss_per_byte == pytest.approx(row.loss_sum / row.bytes)
        if text.isascii():
            assert row.bytes == len(text) - len(tokenizer.decode(ids[0][:1]))
    prompt, ids = tokenizer(TEXT).input_ids, [*tokenizer(f"{TEXT} dog").input_ids, 2]
    (row,) = loaded.losses([TEXT], targets=[" dog"]).itertuples()
    assert row.loss_sum == pytest.approx(loss_sum(model, prompt, ids), rel=1e-4)


def test_losses_of_a_tuned_run_are_those_of_its_test_set(run):
    loaded = load_run(run)
    samples = loaded.samples("test")
    found = loaded.losses(samples["source"], samples["reference"])
    np.testing.assert_allclose(found["loss"], samples["loss"], rtol=1e-5)
    row = samples.iloc[0]
    ids, logits = loaded.logits(row["source"], row["reference"])
    target = row["tokens"] - 1  # without the end token
    log_probabilities = torch.log_softmax(torch.from_numpy(logits), -1).numpy()
    predicted = log_probabilities[np.arange(len(ids) - target - 1, len(ids) - 1), ids[-target:]]
    end = AutoTokenizer.from_pretrained(loaded.config["tokenizer"]).convert_tokens_to_ids("<|im_end|>")
    assert -predicted.sum() - log_probabilities[-1, end] == pytest.approx(row["loss"] * row["tokens"], rel=1e-4)
    prompt = loaded.logits(row["source"])
    np.testing.assert_allclose(prompt.logits, logits[: len(prompt.ids)], atol=2e-4)
    assert loaded.losses([], targets=[]).empty


@pytest.mark.parametrize(
    ("texts", "targets", "message"),
    [
        ("one", ["x"], "losses takes a list of texts"),
        (["one"], None, "need targets"),
        (["one", "two"], ["x"], "2 texts, but 1 targets"),
        (["one"], [None], r"losses: texts\[0\] is None"),
    ],
)
def test_losses_without_their_texts_are_refused(run, texts, targets, message):
    with pytest.raises(ConfigError, match=message):
        load_run(run).losses(texts, targets)


def test_texts_longer_than_the_context_are_refused(config):
    base = load_run(config["base"]["run"])
    with pytest.raises(ConfigError, match=r"more than the model's context length, max_length = 512"):
        base.logits("x " * 600)
    with pytest.raises(ConfigError, match=r"texts\[0\] = '' has no token to predict"):
        base.losses([""])
