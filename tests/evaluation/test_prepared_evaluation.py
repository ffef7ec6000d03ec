"""Evaluation of runs and base models: untuned scores, shared work, existing records, and errors."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_scaling import configuration
from finetune_scaling.data.corpus import CorpusPart, CorpusTexts
from finetune_scaling.data.tokenizers.loading import load_tokenizer
from finetune_scaling.errors import CheckpointError, ConfigError, DataError, WorkdirError
from finetune_scaling.evaluation import evaluated_model, jobs, prepared_evaluation, records, scoring
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.experiments.run import run
from finetune_scaling.runs import model_loading
from finetune_scaling.runs.checkpoints import read_metadata
from finetune_scaling.runs.evaluators import TaskEvaluator, TextEvaluator
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.training.compilations import compiled_programs

FEW = {"few_shot_1": TaskEvaluator(shots=1, examples=6, generate=3)}
TEXT = {"pretraining": TextEvaluator(rows=5)}
ALL = {**FEW, "zero_shot": TaskEvaluator(directions="zero_shot", examples=6, generate=3), **TEXT}


@pytest.fixture(scope="module")
def study(tiny_runs, tmp_path_factory) -> Path:
    """Return a directory with a tokenizer, a base model, two LoRA runs (one of them not trained) and a prompt run.

    Tests copy it before they write to it.
    """
    folder = tmp_path_factory.mktemp("study")
    shutil.copytree(tiny_runs.tokenizer, folder / "tokenizers" / "tiny")
    shutil.copytree(tiny_runs.base, folder / "bases" / "grammar" / "30k")
    # Paths that do not exist: copies of the directory must find their own files.
    paths = {"tokenizer": "/moved/tokenizers/tiny", "base": {"run": "/moved/bases/grammar/30k"}}
    for name, changes in {
        "lora": {"finetune_examples": 10},
        "still": {"schedule": {"learning_rate": 1e-30}, "limits": {"max_steps": 1}, "seeds": {"data": 1}},
        "prompt": {},
    }.items():
        method = "prompt" if name == "prompt" else "lora"
        directory = folder / "runs" / "task" / method / name
        run(tiny_runs.config(method, **changes), directory)
        config = RunDirectory(directory).config | paths
        (directory / "config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture
def copied(study, tmp_path) -> Callable[..., list[str]]:
    """copied("lora", "prompt") returns the directories of these runs in a copy of the study."""
    shutil.copytree(study, tmp_path / "study")
    model_loading._kept_base.cache_clear()

    def directories(*names: str) -> list[str]:
        return [str(next((tmp_path / "study" / "runs").glob(f"*/*/{name}"))) for name in names]

    return directories


def scored(directories: list[str], evaluators: dict[str, Any], **options: Any) -> dict[str, Any]:
    """Evaluate runs and return their records, keyed by "RUN EVALUATOR"."""
    found = {}

    def on_record(
        job: jobs.EvaluationJob, prepared: prepared_evaluation.PreparedEvaluation, record: dict[str, Any]
    ) -> None:
        found[f"{Path(job.name).name} {prepared.name}"] = record

    settings = EvaluationOptions(**options)
    assert run_evaluations(plan_evaluations(directories, lambda *_: evaluators, settings), settings, on_record) == []
    return found


def rows(directory: str, name: str) -> list[dict[str, Any]]:
    path = Path(directory) / "evaluation" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_untuned_base_scores_as_an_adapter_without_effect(copied):
    found = scored(copied("still"), ALL)
    for name, evaluator in ALL.items():
        record = found[f"still {name}"]
        assert record["untuned"]["loss"] == pytest.approx(record["loss"], rel=1e-6), name
        if isinstance(evaluator, TaskEvaluator):
            assert record["untuned"]["metrics"] == record["metrics"], name
            assert record["baselines"].keys() == {"copy"}
    texts = [row["hypothesis"] for row in rows(*copied("still"), "few_shot_1.test")[:3]]
    base_record = (
        Path(copied("still")[0]).parents[3] / "bases/grammar/30k" / found["still few_shot_1"]["untuned"]["record"]
    )
    untuned_rows = records.rows_path(base_record, "test").read_text().splitlines()
    assert [json.loads(line).get("hypothesis") for line in untuned_rows[:3]] == texts
    three = rows(*copied("still"), "few_shot_1.test")[:3]
    references = [{"source": row["source"], "target": row["reference"], "target_language": "B"} for row in three]
    assert found["still few_shot_1"]["metrics"] == scoring.text_scores(references, texts)


def test_text_loss_equals_the_dev_loss_of_pretraining(copied):
    """On all rows of its own dev text, the base model's score is its last dev loss."""
    (lora,) = copied("lora")
    base = Path(lora).parents[3] / "bases/grammar/30k"
    record = scored([lora], {"pretraining": TextEvaluator(rows=None)})["lora pretraining"]
    assert record["untuned"]["loss"] == pytest.approx(RunDirectory(base).result["loss"], rel=1e-6)
    assert record["loss"] != record["untuned"]["loss"]
    own = rows(lora, "pretraining.text")
    assert record["loss"] == pytest.approx(sum(r["loss_sum"] for r in own) / sum(r["tokens"] for r in own))
    first = scored([lora], {"first": TextEvaluator(rows=5)})["lora first"]
    assert first["splits"]["text"]["tokens"] == sum(row["tokens"] for row in own[:5])
    assert rows(lora, "first.text") == own[:5]


def test_text_loss_per_byte(copied):
    """Under the causal objective every token is predicted, so the bytes are those of the texts."""
    (lora,) = copied("lora")
    record = scored([lora], {"all": TextEvaluator(rows=None)})["lora all"]
    config = json.loads((Path(lora).parents[3] / "bases/grammar/30k/config.json").read_text())
    texts = CorpusTexts([configuration.build(CorpusPart, part, "text") for part in config["corpus"]["dev"]], "text")
    size = sum(len(texts[i].encode()) for i in range(len(texts)))
    own = rows(lora, "all.text")
    assert record["splits"]["text"]["bytes"] == sum(row["bytes"] for row in own) == size
    assert record["loss_per_byte"] == pytest.approx(sum(row["loss_sum"] for row in own) / size)
    assert record["perplexity_per_byte"] == pytest.approx(np.exp(record["loss_per_byte"]))
    assert record["untuned"]["loss_per_byte"] != record["loss_per_byte"]


def test_runs_of_one_base_share_its_parameters_scores_and_programs(copied, monkeypatch):
    read, read_trainable = [], model_loading.read_trainable
    monkeypatch.setattr(
        model_loading, "read_trainable", lambda path, *rest: read.append(path) or read_trainable(path, *rest)
    )
    lora, still = copied("lora", "still")
    scored([lora], FEW)
    base = Path(lora).parents[3] / "bases/grammar/30k" / "checkpoints/20"
    assert read == [Path(lora) / "checkpoints" / read[0].name, base]  # run and base, each once
    before = compiled_programs()
    loaded = []
    monkeypatch.setattr(evaluated_model, "load_untuned", lambda *_: loaded.append(1))
    found = scored([lora, still], FEW)
    assert compiled_programs() == before
    assert len(read) == 3  # the second run's own
    assert not loaded  # the base had been scored
    assert found["lora few_shot_1"]["untuned"] == found["still few_shot_1"]["untuned"]
    assert found["lora few_shot_1"]["demonstrations"] == found["still few_shot_1"]["demonstrations"]


def test_jobs_are_grouped_by_base(copied):
    lora, still, prompt = copied("lora", "still", "prompt")
    config = RunDirectory(still).config
    config["base"]["step"] = 10
    (Path(still) / "config.json").write_text(json.dumps(config))
    of_step_10 = read_metadata(Path(still).parents[3] / "bases/grammar/30k/checkpoints/10")["arrays_digest"]
    RunDirectory(still).write_result({**RunDirectory(still).result, "base_digest": of_step_10})
    planned = plan_evaluations([lora, still, prompt], lambda *_: {}, EvaluationOptions())
    assert [Path(job.name).name for job in planned] == ["lora", "prompt", "still"]


def test_an_interrupted_evaluation_resumes_with_missing_records(copied, monkeypatch):
    (directory,) = copied("prompt")
    undisturbed = scored([directory], ALL)
    shutil.rmtree(Path(directory).parents[3] / "bases/grammar/30k/evaluation")
    files = {path: path.read_bytes() for path in (Path(directory) / "evaluation").iterdir()}
    for path in files:
        if path.name != "test.jsonl":
            path.unlink()
    written = []

    def interrupt(path: Path, *arguments: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt  # after the base's first record, before it is copied to the run's record
        written.append(path.name)
        write(path, *arguments)

    write = records.write_record
    with monkeypatch.context() as patch:
        patch.setattr(records, "write_record", interrupt)
        with pytest.raises(KeyboardInterrupt):
            scored([directory], ALL)
    assert [name.split(".")[0] for name in written] == ["few_shot_1", "few_shot_1"]
    scored_again, score = [], prepared_evaluation._score
    monkeypatch.setattr(
        prepared_evaluation, "_score", lambda one, *rest: scored_again.append(one.name) or score(one, *rest)
    )
    assert scored([directory], ALL) == undisturbed
    assert scored_again == ["zero_shot"] * 2 + ["pretraining"] * 2  # the run and its base
    assert {path: path.read_bytes() for path in (Path(directory) / "evaluation").iterdir()} == files
    monkeypatch.setattr(model_loading, "read_trainable", lambda *_: pytest.fail("parameters were read again"))
    assert scored([directory], ALL) == undisturbed


def test_records_of_other_settings_are_errors_unless_overwritten(copied):
    (directory,) = copied("lora")
    first = scored([directory], TEXT)["lora pretraining"]
    other = {"pretraining": TextEvaluator(rows=4)}
    with pytest.raises(
        WorkdirError, match=r"pretraining\.json: holds scores of other settings .*settings\.rows.*--again"
    ):
        plan_evaluations([directory], lambda *_: other, EvaluationOptions())
    assert scored([directory], TEXT)["lora pretraining"] == first
    assert scored([directory], other, overwrite=True)["lora pretraining"]["settings"]["rows"] == 4
    path = Path(directory) / "evaluation" / "pretraining.json"
    path.write_text(path.read_text().replace(first["checkpoint"]["arrays_digest"], "of another training"))
    with pytest.raises(WorkdirError, match=r"differ in checkpoint\.arrays_digest\)"):
        plan_evaluations([directory], lambda *_: other, EvaluationOptions())


def test_base_scores_can_be_added_later(copied):
    (directory,) = copied("lora")
    without = scored([directory], {"pretraining": dataclasses.replace(TEXT["pretraining"], untuned=False)})
    assert "untuned" not in without["lora pretraining"]
    with_it = scored([directory], TEXT)["lora pretraining"]
    assert with_it == without["lora pretraining"] | {"untuned": with_it["untuned"]}
    assert rows(directory, "pretraining.text")


def test_a_base_has_the_same_scores_alone_and_for_its_runs(copied):
    (directory,) = copied("lora")
    base = str(Path(directory).parents[3] / "bases/grammar/30k")
    finetuning = read_run_config(RunDirectory(directory).config)
    found = scored([base], {**FEW, **TEXT}, finetuning=finetuning)
    assert found["30k pretraining"]["checkpoint"]["step"] == 20
    files = list(Path(base, "evaluation", "step_20").glob("*.json"))
    assert {path.name.split(".")[0] for path in files} == {*FEW, *TEXT}
    base_scores = scored([directory], FEW)["lora few_shot_1"]["untuned"]
    assert (base_scores["loss"], base_scores["metrics"]) == tuple(
        found["30k few_shot_1"][name] for name in ("loss", "metrics")
    )
    assert list(Path(base, "evaluation", "step_20").glob("*.json")) == files
    earlier = scored([base], TEXT, step=10)["30k pretraining"]
    assert earlier["settings"] == found["30k pretraining"]["settings"]
    assert earlier["loss"] != found["30k pretraining"]["loss"]
    with pytest.raises(ConfigError, match="evaluator few_shot_1: a pretraining run has no task"):
        plan_evaluations([base], lambda *_: FEW, EvaluationOptions())


def test_exceeding_the_context_length_is_an_error_with_the_required_tokens(copied):
    for directory, prompt in zip(copied("lora", "prompt"), (0, 3), strict=True):
        found = evaluated_model.open_run(directory, None, ShardingConfig(), {})
        tokenizer = load_tokenizer(found.run_config.tokenizer)
        prepare = lambda context: prepared_evaluation.prepare_evaluators(  # noqa: E731
            {"few": TaskEvaluator(shots=2)},
            found.run_config,  # noqa: B023
            tokenizer,  # noqa: B023
            dataclasses.replace(found.config, max_length=context),  # noqa: B023
        )
        (fits,) = prepare(1000)
        tokens = sum(shown.tokens for shown in fits.evaluation.demonstrations)
        assert fits.evaluation.length == 32 + tokens
        prepare(32 + tokens + prompt)
        message = rf"few: .* {32 + tokens} tokens .*: {32 + tokens + prompt} tokens.* lower shots"
        with pytest.raises(ConfigError, match=message):
            prepare(32 + tokens + prompt - 1)


def test_a_missing_base_or_tokenizer_is_an_error_and_keeps_records(copied):
    (directory,) = copied("lora")
    scored([directory], TEXT)
    kept = (Path(directory) / "evaluation" / "pretraining.json").read_bytes()
    folder = Path(directory).parents[3]
    shutil.move(folder / "bases", folder / "elsewhere")
    with pytest.raises(
        CheckpointError, match=r"the base /moved/bases/grammar/30k cannot be used: .* not the directory of a run"
    ):
        plan_evaluations([directory], lambda *_: FEW, EvaluationOptions())
    shutil.move(folder / "elsewhere", folder / "bases")
    shutil.move(folder / "tokenizers", folder / "elsewhere")
    with pytest.raises(DataError, match="no such tokenizer"):
        plan_evaluations([directory], lambda *_: FEW, EvaluationOptions())
    assert (Path(directory) / "evaluation" / "pretraining.json").read_bytes() == kept


def test_a_copied_study_uses_its_own_base(copied, tmp_path):
    (directory,) = copied("lora")
    folder = Path(directory).parents[3]
    original = Path(shutil.copytree(folder, tmp_path / "original"))
    config = Path(directory, "config.json")
    config.write_text(config.read_text().replace("/moved/", f"{original}/"))
    scored([directory], TEXT)
    assert (folder / "bases/grammar/30k/evaluation").is_dir()
    assert not (original / "bases/grammar/30k/evaluation").exists()


def test_a_damaged_run_fails_alone(copied):
    lora, still = copied("lora", "still")
    for state in Path(lora).glob("checkpoints/*/state/d/*"):
        state.write_bytes(b"")
    options = EvaluationOptions()
    reported = []
    errors = run_evaluations(
        plan_evaluations([lora, still], lambda *_: FEW, options),
        options,
        lambda job, *_: reported.append(Path(job.name).name),
    )
    assert [isinstance(error, CheckpointError) for error in errors] == [True]
    assert reported == ["still"]
