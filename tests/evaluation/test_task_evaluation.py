"""Task evaluations token by token: demonstrations, truncation, zero-shot tasks and settings."""

import dataclasses
import json
from typing import Any

import numpy as np
import pytest

from finetune_scaling.data.encoding import encode_examples, encode_prompts
from finetune_scaling.data.task import load_task
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.task_evaluation import TaskEvaluation, check_evaluator_splits, prepare_task_evaluation
from finetune_scaling.evaluation.zero_shot import zero_shot_task
from finetune_scaling.metrics.learned.metric import LearnedMetric
from finetune_scaling.metrics.registry import find_metric
from finetune_scaling.runs.evaluators import TaskEvaluator, preset
from finetune_scaling.runs.run_config import RunConfig, read_run_config

# Seed 0 of tests/tiny.py's task. These must never change, or scores would not be comparable over time.
FIRST, SECOND = "sili sati luli = bubo gevo zego\n\n", "supi pati kuma sila suta nip = ruze bove bube vore gode\n\n"


@pytest.fixture(scope="module")
def tokenizer(tiny_runs) -> SentencePieceTokenizer:
    return load_tokenizer(tiny_runs.tokenizer)


@pytest.fixture(scope="module")
def run_config(tiny_runs) -> RunConfig:
    return read_run_config(tiny_runs.config("full", sequence={"mode": "S"}))


def sequences(evaluation: TaskEvaluation, tokenizer: SentencePieceTokenizer) -> list[dict[str, list[int]]]:
    """Return the full sequences of the test examples as lists."""
    examples = evaluation.splits["test"].examples
    encoded = encode_examples(examples, tokenizer, evaluation.task.template, evaluation.sequence_format)
    found = [encoded.sequence(i, evaluation.sequence_format) for i in range(len(examples))]
    return [{name: np.asarray(value).tolist() for name, value in one._asdict().items()} for one in found]


def test_few_shot_prompts_to_the_token(run_config, tokenizer):
    evaluation = prepare_task_evaluation(preset("few_shot_2"), run_config, tokenizer)
    position = next(
        i for i, one in enumerate(evaluation.splits["test"].examples) if len(tokenizer.encode(one["target"])) < 9
    )
    example = evaluation.splits["test"].examples[position]
    demonstrations = [*tokenizer.encode(FIRST), *tokenizer.encode(SECOND)]
    example_input = tokenizer.encode(f"{example['source']} =")
    target = [*tokenizer.encode(f" {example['target']}"), tokenizer.eos_id]
    prompt = [tokenizer.bos_id, tokenizer.special_tokens.mode_ids["S"], *demonstrations, *example_input]
    assert encode_prompts([example], tokenizer, evaluation.task.template, evaluation.sequence_format) == [prompt]

    full = sequences(evaluation, tokenizer)[position]
    assert full["tokens"] == prompt + target[:-1]
    assert full["targets"] == prompt[1:] + target
    assert full["weights"] == [0] * (len(prompt) - 1) + [1] * len(target)  # only the example's own target
    assert full["prefix"] == [True] * len(prompt) + [False] * (len(target) - 1)
    assert evaluation.length == 32 + len(demonstrations)


def test_decoding_comes_from_the_evaluator_or_the_run(run_config, tokenizer):
    beam = DecodingConfig(method="beam", beams=2)
    own = dataclasses.replace(run_config, evaluation=dataclasses.replace(run_config.evaluation, decoding=beam))
    first, second = (
        prepare_task_evaluation(preset("test"), own, tokenizer),
        prepare_task_evaluation(preset("test"), run_config, tokenizer),
    )
    same = prepare_task_evaluation(dataclasses.replace(preset("test"), decoding=beam), run_config, tokenizer)
    assert first is same  # cached
    assert same.decoding == beam
    assert second.decoding == DecodingConfig()
    assert (same.settings["decoding"]["method"], second.settings["decoding"]["method"]) == ("beam", "greedy")


def test_settings_include_the_model_of_a_learned_metric(run_config, tokenizer):
    def settings(model: str, **changes: Any) -> Any:
        metric = LearnedMetric("learned", ("program", "{model}"), model=model, **changes)
        return prepare_task_evaluation(
            preset("test"), run_config, tokenizer, None, (metric, find_metric("bleu"))
        ).settings

    assert settings("small") != settings("large")
    assert settings("small") == settings("small", timeout=3.0, batch_size=1)
    assert settings("small")["metrics"][1] == "bleu"


def test_demonstrations_are_fixed_recorded_and_nested(run_config, tokenizer):
    one, two, again = (prepare_task_evaluation(preset(f"few_shot_{k}"), run_config, tokenizer) for k in (1, 2, 1))
    assert [shown.text for shown in two.demonstrations] == [FIRST, SECOND]
    assert list(one.demonstrations) == list(two.demonstrations)[:1] == list(again.demonstrations)
    record = two.demonstrations[0].record()
    train = load_task(run_config.task).examples("train")
    assert (record["split"], record["source"]) == ("train", train[record["index"]]["source"])
    assert f"{record['source']} = {record['target']}\n\n" == record["text"] == FIRST
    assert json.loads(json.dumps(record)) == record
    other = prepare_task_evaluation(TaskEvaluator(shots=2, seed=1), run_config, tokenizer)
    assert [shown.text for shown in other.demonstrations] != [FIRST, SECOND]
    assert other.settings["sets"]["test"]["sha256"] != two.settings["sets"]["test"]["sha256"]


def test_examples_are_truncated_as_without_demonstrations(tiny_runs, tokenizer):
    limits = {"length": 14, "max_source_tokens": 9, "max_target_tokens": 6}  # the length truncates some sources further
    short = read_run_config(tiny_runs.config("full", sequence=limits))
    plain = prepare_task_evaluation(TaskEvaluator(), short, tokenizer)
    shown = prepare_task_evaluation(TaskEvaluator(shots=1, demonstration="{input} |{target}\n"), short, tokenizer)
    prefix = tokenizer.encode(shown.demonstrations[0].text)
    assert shown.demonstrations[0].text.count(" | ") == 1
    for left, right in zip(sequences(shown, tokenizer), sequences(plain, tokenizer), strict=True):
        assert left["targets"] == prefix + right["targets"]
        assert sum(left["weights"]) == sum(right["weights"]) <= 6


def test_each_direction_has_its_own_demonstrations(tiny_runs, tokenizer):
    config = tiny_runs.config("full")
    forth = config["task"]["train"][0]
    back = {**forth, "source": {**forth["source"], "languages": ["B", "A"]}}
    back |= {"source_language": "B", "target_language": "A"}
    tests = [dict(part, source={**part["source"], "split": "test", "size": 3}) for part in (forth, back)]
    config["task"] |= {"train": [forth, back], "test": {"test": tests}}
    evaluation = prepare_task_evaluation(preset("few_shot_1"), read_run_config(config), tokenizer)
    assert [shown.example["source_language"] for shown in evaluation.demonstrations] == ["A", "B"]
    assert evaluation.demonstrations[1].position >= 60  # in the second part of the split
    for example in evaluation.splits["test"].examples:
        own = next(s for s in evaluation.demonstrations if s.example["source_language"] == example["source_language"])
        text, _ = evaluation.task.template.render(example)
        assert text == f"{own.text}{example['source']} ="
    config["task"]["train"] = [forth]
    with pytest.raises(DataError, match="shots = 1, but only 0 of up to 2,000 B-A examples in split 'train'"):
        prepare_task_evaluation(preset("few_shot_1"), read_run_config(config), tokenizer)


@pytest.mark.parametrize(
    ("evaluator", "error", "message"),
    [
        (TaskEvaluator(splits=("tset",)), DataError, "has no split 'tset'; did you mean 'test'"),
        (TaskEvaluator(shots=1, shots_from="test"), ConfigError, "'test' is also scored"),
        (TaskEvaluator(shots=1, demonstration="{input} {target}</s>\n"), ConfigError, "contains .* '</s>'"),
        (TaskEvaluator(shots=3, max_shot_tokens=6), DataError, "shots = 3, but only"),
        (TaskEvaluator(shots=61), DataError, "raise a limit, or lower shots"),
        (TaskEvaluator(task={"name": "flores200"}), DataError, r"flores200/devtest\.jsonl"),
        (TaskEvaluator(task={"name": "florse200"}), ConfigError, "did you mean 'flores200'"),
    ],
)
def test_invalid_evaluators_are_errors(evaluator, error, message, run_config, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        prepare_task_evaluation(evaluator, run_config, tokenizer)


def test_a_base_reads_prompts_in_its_pretraining_format(tiny_runs, tokenizer):
    task = tiny_runs.config("full")["task"] | {"max_source_tokens": 9, "max_target_tokens": 7}
    finetuning = read_run_config(tiny_runs.config("full", task=task))
    for name, mode, bidirectional in (("causal", "", False), ("prefix_lm", "", True), ("ul2", "S", True)):
        base = read_run_config(tiny_runs.config("pretrain", objective={"name": name}))
        found = prepare_task_evaluation(TaskEvaluator(task=task), base, tokenizer).sequence_format
        assert (found.mode, found.bidirectional_input, found.max_source_tokens) == (mode, bidirectional, 9)
        assert found.max_input_tokens == 9 + len(tokenizer.encode(" ="))
    as_a_run = prepare_task_evaluation(TaskEvaluator(), finetuning, tokenizer)
    assert prepare_task_evaluation(TaskEvaluator(), base, tokenizer, finetuning).settings == as_a_run.settings
    with pytest.raises(ConfigError, match="a pretraining run has no task; give a finetuning run's config"):
        prepare_task_evaluation(TaskEvaluator(), base, tokenizer)


def test_zero_shot_of_artificial_languages_uses_language_c(run_config, tokenizer):
    evaluation = prepare_task_evaluation(preset("zero_shot"), run_config, tokenizer)
    examples = evaluation.splits["test-C"].examples
    assert {(e["source_language"], e["target_language"]) for e in examples} == {("C", "B")}
    assert all(e["target_nll"] > 0 for e in examples)
    check_evaluator_splits(preset("zero_shot"), run_config)
    summaries = zero_shot_task(load_task("grammar_summarization"))
    assert {part.direction for part in summaries.test["test-C"]} == {"C"}


@pytest.mark.parametrize(("task", "target"), [("wmt14_en_de", "de"), ("wmt19_en_zh", "zh")])
def test_zero_shot_of_the_papers_tasks_is_flores(task, target, tmp_path):
    """Five directions into the task's target language, as in section 4 of the paper."""
    languages = ("fr", "de" if target == "zh" else "zh", "hi", "tr", "pl")
    rows = [dict.fromkeys((*languages, target), f"sentence {i}") for i in range(3)]
    (tmp_path / "flores200").mkdir()
    file = tmp_path / "flores200" / "devtest.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = {"input": "{source} in {target_language}: "}
    tuned = load_task({"name": task, "template": template, "sources": {"data_dir": str(tmp_path)}})
    other = zero_shot_task(tuned)
    assert list(other.test) == [f"{source}-{target}" for source in languages]
    assert other.template == tuned.template
    assert [len(other.examples(name)) for name in other.test] == [3] * 5


def test_zero_shot_of_other_tasks_needs_a_task(run_config):
    with pytest.raises(ConfigError, match=r"known for task mlsum; .*evaluators\.zero_shot\.task"):
        zero_shot_task(load_task("mlsum"))
    wmt = load_task("wmt14_en_de")
    everything: Any = {**wmt.test, "back": load_task("flores200").test["fr-de"]}
    assert "fr-de" not in zero_shot_task(load_task({"name": "wmt14_en_de", "test": everything})).test


def test_zero_shot_compares_languages_and_not_the_form_of_their_codes():
    part = {"source": {"kind": "files", "path": "x"}, "source_field": "a", "target_field": "b"}
    task = {"name": "own", "kind": "translation", "train": [{**part, **languages("fra_Latn", "deu_Latn")}]}
    assert list(zero_shot_task(load_task(task)).test) == ["zh-de", "hi-de", "tr-de", "pl-de"]
    cantonese = {**task, "train": [{**part, **languages("yue_Hant", "de")}]}
    assert "zh-de" in zero_shot_task(load_task(cantonese)).test


def languages(source: str, target: str) -> dict[str, str]:
    return {"source_language": source, "target_language": target}


def test_an_en_zh_task_on_shared_data(shared_data, tokenizer, run_config):
    """An evaluator can name another task with another language pair."""
    part = {"source": {"kind": "files", "path": str(shared_data / "mt_news/en-zh.test.jsonl.xz")}}
    part |= {"source_field": "en", "target_field": "zh", "source_language": "en", "target_language": "zh"}
    task = {"name": "en_zh", "kind": "translation", "test": {"newstest2020": [part]}}
    evaluation = prepare_task_evaluation(TaskEvaluator(task=task, examples=5, generate=2), run_config, tokenizer)
    assert evaluation.settings["sets"]["newstest2020"].keys() == {"examples", "generated", "sha256"}
    assert "tok:zh" in evaluation.baselines["copy"]["metrics"]["bleu"]["signature"]
