"""Evaluators of a run: during training, at its end, in the table; killed, resumed and changed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation import records
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.evaluation.records import columns, table_columns
from finetune_scaling.experiments import run as run_module
from finetune_scaling.experiments.run import run
from finetune_scaling.runs.evaluators import TaskEvaluator, TextEvaluator
from finetune_scaling.runs.run_directory import RunDirectory

FEW = {"examples": 6, "generate": 3}
EVALUATORS = {"few_shot_1": FEW, "pretraining": {"rows": 5, "every_steps": 6}}


@pytest.fixture(scope="module")
def base(tiny_runs, tmp_path_factory) -> Path:
    """A copy of the tiny base, to write records into."""
    return Path(shutil.copytree(tiny_runs.base, tmp_path_factory.mktemp("bases") / "base"))


@pytest.fixture(scope="module")
def config(tiny_runs, base) -> Callable[..., dict[str, Any]]:
    """config(evaluators) of a run that decodes no test examples."""

    def make(evaluators: dict[str, Any] | None, **changes: Any) -> dict[str, Any]:
        fields = {"base": {"run": str(base)}, "evaluation": {"evaluators": evaluators}}
        return tiny_runs.config("prompt", **fields, **changes)

    return make


@pytest.fixture(scope="module")
def scored(config, tmp_path_factory) -> Path:
    """A run with evaluators, which tests must not change."""
    directory = tmp_path_factory.mktemp("scored")
    run(config(EVALUATORS), directory)
    return directory


def files(directory: Path) -> dict[str, str]:
    return {path.name: path.read_text() for path in (directory / "evaluation").iterdir()}


def test_scores_are_in_the_result_and_in_separate_records(scored):
    result = RunDirectory(scored).result
    assert result["evaluators"].keys() == EVALUATORS.keys()
    for name, found in result["evaluators"].items():
        record = json.loads((scored / "evaluation" / f"{name}.json").read_text())
        assert found == {key: record[key] for key in found}
        assert record["checkpoint"]["step"] == result["best_step"]
        assert found["untuned"]["loss"] != found["loss"]
    assert {"few_shot_1.test.jsonl", "pretraining.text.jsonl"} <= files(scored).keys()


def test_an_evaluator_with_every_steps_runs_during_training(scored):
    lines = [line for line in RunDirectory(scored).metrics() if "pretraining.loss" in line]
    assert [line["step"] for line in lines] == [6, 12]
    result = RunDirectory(scored).result
    assert result["best_step"] == 12
    assert lines[-1]["pretraining.loss"] == pytest.approx(result["evaluators"]["pretraining"]["loss"], rel=1e-6)
    assert lines[0]["pretraining.loss"] != lines[1]["pretraining.loss"]
    assert all(name == "step" or name.startswith("pretraining.") for line in lines for name in line)


def test_training_is_the_same_with_and_without_evaluators(scored, config, tmp_path):
    without = run(config(None), tmp_path)
    result = RunDirectory(scored).result
    assert {**result, "seconds": 0} == {**without, "seconds": 0, "evaluators": result["evaluators"]}


def test_a_finished_evaluator_is_not_run_again_after_a_kill(scored, config, monkeypatch, tmp_path):
    def interrupt(evaluated: Any, prepared: Any) -> Any:
        if prepared.name == "pretraining":
            raise KeyboardInterrupt
        return evaluate(evaluated, prepared)

    evaluate = run_module.evaluate
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "evaluate", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run(config(EVALUATORS), tmp_path)
    assert "few_shot_1.json" in files(tmp_path)
    written = []
    monkeypatch.setattr(records, "write_record", lambda path, *a: written.append(path.name) or WRITE(path, *a))
    run(config(EVALUATORS), tmp_path)
    assert set(written) == {"pretraining.json"}
    assert files(tmp_path) == files(scored)


WRITE = records.write_record


def test_evaluators_of_a_config_may_change(scored, config, tmp_path):
    shutil.copytree(scored, tmp_path / "run")
    again = run(config({**EVALUATORS, "zero_shot": FEW}), tmp_path / "run")
    assert again == RunDirectory(scored).result  # a finished run is not scored again
    assert run(config(None), tmp_path / "run") == again


def test_an_invalid_evaluator_raises_before_training(config, tmp_path):
    with pytest.raises(ConfigError, match=r"few_shot_5: sequences of \d+ tokens.* max_length = .* lower shots"):
        run(config({"few_shot_5": {}}), tmp_path)
    assert not RunDirectory(tmp_path).metrics()
    with pytest.raises(ConfigError, match="did you mean 'few_shot_1'"):
        run(config({"few_shots_1": {}}), tmp_path)


def test_columns_of_the_table(scored, tmp_path):
    directory = Path(shutil.copytree(scored, tmp_path / "run"))
    result = RunDirectory(directory).result
    own = table_columns(directory, result)
    assert own == {k: v for name, one in result["evaluators"].items() for k, v in columns(name, one).items()}
    assert own["few_shot_1.untuned.bleu"] == result["evaluators"]["few_shot_1"]["untuned"]["metrics"]["bleu"]["score"]
    assert {"few_shot_1.loss", "few_shot_1.chrf", "pretraining.loss", "pretraining.untuned.loss"} <= own.keys()
    assert {name.count(".") for name in own} == {1, 2}

    how = EvaluationOptions()
    later = {
        "zero_shot": TaskEvaluator(directions="zero_shot", examples=4, generate=2, untuned=False),
        "test": TaskEvaluator(examples=5, generate=5),
    }
    assert not run_evaluations(plan_evaluations([str(directory)], lambda *_: later, how), how)
    more = table_columns(directory, result)
    assert {"zero_shot.bleu", "zero_shot.loss", "bleu", "test.untuned.bleu", "test.untuned.loss"} <= more.keys()
    assert not {"loss", "test.loss", "test.bleu", "zero_shot.untuned.loss"} & more.keys()
    assert {name: more[name] for name in own} == own
    decoded = {**result, "metrics": {"bleu": 3.0}}  # a run that decoded keeps its own metrics
    assert "bleu" not in table_columns(directory, decoded)

    again = EvaluationOptions(overwrite=True, step=12)
    assert not run_evaluations(
        plan_evaluations([str(directory)], lambda *_: {"pretraining": TextEvaluator(rows=3)}, again), again
    )
    (directory / "evaluation" / "notes.json").write_text("[1, 2]")  # not a record, and ignored
    newest = table_columns(directory, result)
    assert newest["pretraining.loss"] != own["pretraining.loss"]  # later records take precedence
    assert "pretraining.loss" in table_columns(directory, {**result, "best_step": 4})  # those of the result
    assert "zero_shot.loss" not in table_columns(directory, {**result, "best_step": 4})


def test_a_base_may_have_evaluators(tiny_runs, tmp_path):
    few = {"rows": 3, "every_steps": 10}
    record = run(tiny_runs.config("pretrain", evaluation={"evaluators": {"pretraining": few}}), tmp_path)
    lines = [line for line in RunDirectory(tmp_path).metrics() if "pretraining.loss" in line]
    assert [line["step"] for line in lines] == [10, 20]
    assert record["evaluators"]["pretraining"]["loss"] == pytest.approx(lines[1]["pretraining.loss"], rel=1e-6)
    assert "untuned" not in record["evaluators"]["pretraining"]
