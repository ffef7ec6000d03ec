"""Public models: scores equal those of transformers, and errors are raised before scoring."""

import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusPart, CorpusTexts
from finetune_scaling.data.objectives import ObjectiveConfig
from finetune_scaling.errors import CheckpointError, ConfigError, DataError, UserError, WorkdirError
from finetune_scaling.evaluation import evaluated_model, prepared_evaluation, scoring
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.runs.evaluators import TaskEvaluator, TextEvaluator
from finetune_scaling.runs.run_config import read_run_config

TINY = Path(__file__).parents[1] / "tiny.py"
MADE = runpy.run_path(str(TINY.with_name("public_tokenizers.py")))
KINDS, THEIRS = MADE["KINDS"], MADE["reference_tokenizer"]
CAUSAL = {"length": 160, "max_source_tokens": 64, "max_target_tokens": 80, "bidirectional_input": False}
ROWS, EOS, NEW = 352, 2, 20  # ROWS: more rows than the tokenizers have ids
TEST = {"test": TaskEvaluator(examples=6, generate=4)}
FEW = {"few_shot_1": TaskEvaluator(shots=1, examples=5, generate=2)}


def finetuning(**evaluation):
    config = configuration.plain(runpy.run_path(str(TINY))["get_config"]("lora"))
    return read_run_config(
        {
            **config,
            "sequence": CAUSAL,
            "evaluation": {"batch_size": 4, "decoding": {"max_new_tokens": NEW}, **evaluation},
        }
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory, shared_cache):
    """Return a random Llama and its directory with several shards and no tokenizer."""
    folder = tmp_path_factory.mktemp("public")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=ROWS, hidden_size=24, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2, max_position_embeddings=512, attn_implementation="eager",
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
    model.eval().save_pretrained(folder, max_shard_size="40KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    return model, folder


@pytest.fixture
def model(saved, tmp_path):
    """model(kind) returns a copy of the directory with a tokenizer of that kind."""

    def make(kind: str = "byte_level") -> Path:
        directory = Path(shutil.copytree(saved[1], tmp_path / kind))
        KINDS[kind](directory)
        return directory

    return make


def scored(directory: Path, evaluators: dict[str, Any], **how: Any) -> dict[str, Any]:
    found = {}
    settings = EvaluationOptions(**{"finetuning": finetuning(), **how})
    jobs = plan_evaluations([str(directory)], lambda *_: evaluators, settings)
    assert run_evaluations(jobs, settings, lambda _, one, record: found.update({one.name: record})) == []
    return found


def rows(directory: Path, name: str, split: str = "test") -> list[dict[str, Any]]:
    (path,) = directory.glob(f"evaluation/weights_*/{name}.*.{split}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


def cross_entropy(model, ids: list[int], start: int) -> float:
    """Return transformers' loss summed over ids[start:], in nats."""
    tokens = torch.tensor([ids])
    labels = tokens.clone()
    labels[:, :start] = -100
    count = len(ids) - max(start, 1)
    with torch.no_grad():
        return float(model(tokens, labels=labels).loss) * count


@pytest.mark.parametrize("kind", ["without_bos", "byte_fallback", "sentence_pieces"])
def test_losses_and_texts_equal_transformers(saved, model, kind):
    theirs, directory = saved[0], model(kind)
    tokenizer = THEIRS(directory)
    record = scored(directory, TEST)["test"]
    found = rows(directory, "test")
    for row in found:
        prompt = tokenizer(f"{row['source']} =").input_ids
        ids = [*tokenizer(f"{row['source']} = {row['reference']}").input_ids, EOS]  # in one piece
        assert row["tokens"] == len(ids) - len(prompt)
        assert row["loss_sum"] / row["tokens"] == pytest.approx(
            cross_entropy(theirs, ids, len(prompt)) / row["tokens"], abs=1e-4
        )
        if "hypothesis" in row:
            assert row["hypothesis"] == written(theirs, tokenizer, prompt)
    assert sum("hypothesis" in row for row in found) == 4
    assert record["loss"] == pytest.approx(sum(r["loss_sum"] for r in found) / sum(r["tokens"] for r in found))
    assert record["baselines"].keys() == {"copy"}


def written(model, tokenizer, prompt: list[int]) -> str:
    tokens = torch.tensor([prompt])
    output = model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False,
        eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    return tokenizer.decode(output[0, len(prompt) :], skip_special_tokens=True).strip()


def test_stop_strings_few_shot_and_zero_shot(saved, model):
    directory = model()
    tokenizer = THEIRS(directory)
    zero = {"zero_shot": TaskEvaluator(directions="zero_shot", examples=3, generate=0)}
    records = scored(
        directory, {**FEW, **zero}, finetuning=finetuning(decoding={"stop": ("e", "\ufffd"), "max_new_tokens": NEW})
    )
    assert [one["split"] for one in records["few_shot_1"]["demonstrations"]] == ["train"]
    demonstration = records["few_shot_1"]["demonstrations"][0]["text"]
    for row in rows(directory, "few_shot_1"):
        prompt = tokenizer(f"{demonstration}{row['source']} =").input_ids
        ids = [*tokenizer(f"{demonstration}{row['source']} = {row['reference']}").input_ids, EOS]
        assert row["loss_sum"] == pytest.approx(cross_entropy(saved[0], ids, len(prompt)), abs=1e-4 * row["tokens"])
        if "hypothesis" in row:
            text = written(saved[0], tokenizer, prompt)
            assert row["hypothesis"] == text.partition("e")[0].partition("\ufffd")[0].strip()
    decoded = [row for row in rows(directory, "few_shot_1") if "hypothesis" in row]
    references = [{"source": row["source"], "target": row["reference"], "target_language": "B"} for row in decoded]
    texts = [row["hypothesis"] for row in decoded]
    assert records["few_shot_1"]["metrics"] == scoring.text_scores(references, texts)
    assert "C" in next(iter(records["zero_shot"]["splits"]))


def test_text_loss_under_the_causal_objective(saved, model):
    directory = model("metaspace")
    tokenizer = THEIRS(directory)
    part = configuration.build(CorpusPart, runpy.run_path(str(TINY))["text"]("dev", 6), "texts")
    evaluator = TextEvaluator(texts=(part,), objective=ObjectiveConfig("causal"), length=400, rows=None)
    record = scored(directory, {"text": evaluator})["text"]
    texts = CorpusTexts((part,), "texts")
    documents = [[*tokenizer(texts[i]).input_ids, EOS] for i in range(len(texts))]
    expected = sum(cross_entropy(saved[0], ids, 1) for ids in documents)
    assert record["splits"]["text"]["tokens"] == sum(len(ids) - 1 for ids in documents)
    # The space that this tokenizer adds at the start of a document counts as a byte.
    assert record["splits"]["text"]["bytes"] == sum(len(texts[i].encode()) + 1 for i in range(len(texts)))
    assert record["loss"] == pytest.approx(expected / record["splits"]["text"]["tokens"], abs=1e-4)
    with pytest.raises(ConfigError, match=r"evaluator pretraining: .*set texts"):
        scored(directory, {"pretraining": TextEvaluator()})
    masked = TextEvaluator(texts=(part,), objective=ObjectiveConfig("ul2"), length=64)
    with pytest.raises(ConfigError, match=r"objective = ul2; set objective.name to causal"):
        scored(directory, {"text": masked})


def test_records_are_kept_until_the_files_change(model, tmp_path_factory, monkeypatch):
    directory = model()
    first = scored(directory, FEW)["few_shot_1"]
    assert list(first["checkpoint"]) == ["files_sha256"]
    files = {path: path.read_bytes() for path in directory.glob("evaluation/*/*")}
    with monkeypatch.context() as patch:
        patch.setattr(evaluated_model, "load_model", lambda *_, **__: pytest.fail("parameters were read again"))
        patch.setattr(os, "access", lambda *_: False)  # nothing needs to be written
        assert scored(directory, FEW)["few_shot_1"] == first
        with pytest.raises(WorkdirError, match=r"--out=FILE.json"):
            scored(directory, TEST)
    with monkeypatch.context() as patch:
        patch.setattr(os, "access", lambda path, _: not Path(path).is_relative_to(directory))
        out = tmp_path_factory.mktemp("scores") / "out.json"
        assert scored(directory, FEW, out=out)["few_shot_1"] == first
    shard = sorted(directory.glob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[-2] ^= 1  # changed weights get another record, and the first record is kept
    shard.write_bytes(content)
    other = scored(directory, FEW)["few_shot_1"]
    assert other["checkpoint"] != first["checkpoint"]
    assert {path: path.read_bytes() for path in files} == files
    assert len(list(directory.glob("evaluation/weights_*"))) == 2
    scored_again = []
    monkeypatch.setattr(prepared_evaluation, "_score", lambda *_: scored_again.append(1))
    assert scored(directory, FEW)["few_shot_1"] == other
    assert scored_again == []


def edit(directory: Path, **fields: Any) -> None:
    file = directory / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def first_shard(directory: Path) -> Path:
    return sorted(directory.glob("*.safetensors"))[0]


@pytest.mark.parametrize(
    ("break_it", "how", "error", "message"),
    [
        (lambda d: (d / "tokenizer.json").unlink(), {}, DataError, "has no tokenizer.json and no tokenizer.model"),
        (lambda d: edit(d, model_type="mamba"), {}, ConfigError, "model_type = 'mamba'"),
        (lambda d: edit(d, vocab_size=300), {}, CheckpointError, "embed_tokens.weight"),
        (lambda d: first_shard(d).unlink(), {}, CheckpointError, r"\.safetensors: "),
        (lambda d: None, {"finetuning": None}, ConfigError, "a public model has no task"),
        (lambda d: None, {"step": 3}, ConfigError, "--step is for checkpoints of runs"),
        (lambda d: None, {"tokenizer": "nowhere"}, DataError, "nowhere: has no tokenizer.json"),
    ],
)  # fmt: skip
def test_missing_files_and_options_are_errors_before_scoring(model, monkeypatch, break_it, how, error, message):
    directory = model()
    break_it(directory)
    monkeypatch.setattr(evaluated_model, "load_model", lambda *_, **__: pytest.fail("parameters were read"))
    with pytest.raises(error, match=message) as found:
        scored(directory, TEST, **how)
    assert isinstance(found.value, UserError)
    assert "\n" not in str(found.value)
    assert not (directory / "evaluation").exists()


def test_bidirectional_attention_and_modes_are_errors(model):
    config = configuration.plain(runpy.run_path(str(TINY))["get_config"]("lora"))
    config["sequence"] |= {"mode": "S"}
    message = r"sequence.bidirectional_input = True.*sequence.mode = 'S'.*--config.sequence.bidirectional_input=False"
    with pytest.raises(ConfigError, match=message):
        scored(model(), TEST, finetuning=read_run_config(config))


def test_a_tokenizer_for_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="--tokenizer is for public models"):
        plan_evaluations([str(tmp_path)], lambda *_: TEST, EvaluationOptions(tokenizer="elsewhere"))


def test_the_command_with_another_tokenizer(saved, tmp_path):
    directory = Path(shutil.copytree(saved[1], tmp_path / "model"))
    KINDS["sentence_pieces"](tmp_path / "tokenizer")
    sequence = {**CAUSAL, "mode": ""}
    flags = [
        f"--workdir={directory}", f"--config={TINY}:lora", f"--tokenizer={tmp_path / 'tokenizer'}",
        "--evaluators=test", "--examples=3", "--generate=1",
        *(f"--config.sequence.{name}={value}" for name, value in sequence.items() if name != "mode"),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "finetune_scaling.evaluate", *flags], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    (path,) = directory.glob("evaluation/weights_*/test.*.json")
    record = json.loads(path.read_text())
    assert (line["run"], line["evaluator"], line["loss"]) == (str(directory), "test", record["loss"])
    assert np.isfinite(record["loss"])
    assert record["settings"]["sets"]["test"]["examples"] == 3
