"""Evaluators of a study: those of each run, the command that scores runs in shares, and its table."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError, WorkdirError
from finetune_scaling.runs.evaluators import TaskEvaluator, preset
from finetune_scaling.studies import execute as execute_module
from finetune_scaling.studies.evaluate import StudyEvaluators, finished_runs, read_recorded_study
from finetune_scaling.studies.execute import execute, record_config
from finetune_scaling.studies.grid import StudyConfig, read_study, runs
from finetune_scaling.studies.tables import write_points


def small(tiny_runs, examples=(10, 20), **evaluation: Any) -> dict[str, Any]:
    """Return the tiny study with one base and only LoRA: two runs."""
    changes: dict[str, Any] = {"families": {"grammar": {"sizes": ["30k"]}}}
    if evaluation:
        changes["tasks"] = {"translation": {"finetune": {"evaluation": evaluation}}}
    config = tiny_runs.config("study", **changes)
    grid = config["tasks"]["translation"]["methods"]["lora"]
    grid_fields = {"finetune_examples": list(examples), "held_out_examples": []}
    config["tasks"]["translation"]["methods"] = {"lora": {**grid, **grid_fields}}
    return config


def evaluate(*flags: str) -> subprocess.Popen:
    command = [sys.executable, "-m", "finetune_scaling.evaluate", *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_each_task_and_method_has_its_evaluators_and_presets_are_for_all(tiny_runs):
    config = small(tiny_runs, evaluators={"few_shot_1": {"seed": 5}, "mine": {"splits": ["dev"]}})
    tasks = config["tasks"]
    plain = small(tiny_runs)["tasks"]["translation"]
    other = {**plain, "methods": {"lora": {**plain["methods"]["lora"], "config": {"evaluation": {"evaluators": {}}}}}}
    study = read_study({**config, "tasks": {**tasks, "other": other}})
    first, second = (next(run for run in runs(study) if run.setting.task == task) for task in ("translation", "other"))

    def names(*asked: str) -> list[list[str]]:
        chosen = StudyEvaluators(study, list(asked) or None)
        return [list(chosen.for_run(run)) for run in (first, second)]

    assert names() == [["few_shot_1", "mine"], []]
    assert names("mine") == [["mine"], []]
    assert names("mine", "pretraining") == [["mine", "pretraining"], ["pretraining"]]
    assert StudyEvaluators(study).for_run(first)["few_shot_1"] == TaskEvaluator(shots=1, seed=5)
    assert StudyEvaluators(study, ["few_shot_2"]).for_run(second) == {"few_shot_2": preset("few_shot_2")}
    with pytest.raises(ConfigError, match=r"--evaluators: no evaluator is called 'minee'; did you mean 'mine'"):
        names("minee")


def test_runs_of_a_method_that_another_config_lacks_have_presets_only(tiny_runs):
    config = small(tiny_runs, evaluators={"few_shot_1": {}})
    run = runs(read_study(config))[0]
    grid = config["tasks"]["translation"]
    full = tiny_runs.config("study")["tasks"]["translation"]["methods"]["full"]
    other = read_study({**config, "tasks": {"translation": {**grid, "methods": {"full": full}}}})
    assert StudyEvaluators(other).for_run(run) == {}
    assert StudyEvaluators(other, ["zero_shot"]).for_run(run) == {"zero_shot": preset("zero_shot")}


def test_evaluators_use_the_decoding_of_the_study(tiny_runs):
    study = read_study(small(tiny_runs, decoding={"method": "beam", "beams": 2}, evaluators={"few_shot_1": {}}))
    run = runs(study)[0]
    beam = DecodingConfig(method="beam", beams=2)
    assert StudyEvaluators(study).for_run(run) == {"few_shot_1": TaskEvaluator(shots=1, decoding=beam)}
    assert StudyEvaluators(study, ["few_shot_2"]).for_run(run) == {"few_shot_2": TaskEvaluator(shots=2, decoding=beam)}


def test_a_study_is_read_from_its_directory(tiny_runs, tmp_path):
    config = small(tiny_runs)
    with pytest.raises(WorkdirError, match="not the directory of a study"):
        read_recorded_study(tmp_path)
    record_config(read_study(config), config, tmp_path)
    assert isinstance(read_recorded_study(tmp_path), StudyConfig)
    assert finished_runs(read_recorded_study(tmp_path), tmp_path) == []


@pytest.mark.slow
def test_a_finished_study_is_scored_in_shares_and_its_table_rewritten(tiny_runs, tmp_path, monkeypatch):
    config = small(tiny_runs, evaluators={"pretraining": {"rows": 4}})
    study = read_study(config)
    assert execute(study, config, tmp_path).done == 2
    write_points(study, tmp_path)
    before = points(tmp_path)
    assert all(row["pretraining.loss"] and row["pretraining.untuned.loss"] for row in before)

    flags = [f"--study={tmp_path}", "--evaluators=few_shot_1,pretraining", "--examples=4", "--generate=2", "--of=2"]
    shares = [evaluate(*flags, f"--index={index}") for index in (0, 1)]
    ends = [(*share.communicate(timeout=300), share.returncode) for share in shares]
    assert [code for _, _, code in ends] == [0, 0], ends
    line = rf"2 evaluations of 1 run, [1-9]\d* programs? compiled: {tmp_path / 'points.csv'}\n"
    assert all(re.fullmatch(line, printed) for printed, _, _ in ends), ends
    assert not any("pretraining of" in errors for _, errors, _ in ends)  # the runs had that score already

    after = points(tmp_path)
    assert [{name: row[name] for name in old} for row, old in zip(after, before, strict=True)] == before
    records = [json.loads(path.read_text()) for path in sorted(tmp_path.glob("runs/**/few_shot_1.json"))]
    assert [float(row["few_shot_1.bleu"]) for row in after] == [r["metrics"]["bleu"]["score"] for r in records]
    assert len({row["few_shot_1.untuned.loss"] for row in after}) == 1  # of one base
    assert len(list(tmp_path.glob("bases/grammar/30k/evaluation/step_20/few_shot_1.*.json"))) == 1
    facts = json.loads((tmp_path / "study.json").read_text())
    copying = records[0]["baselines"]["copy"]["metrics"]["bleu"]["score"]
    assert facts["evaluator_baselines"]["translation"]["few_shot_1"]["copy"]["bleu"] == copying

    monkeypatch.setattr(execute_module, "train", lambda *_: pytest.fail("something was trained again"))
    assert execute(study, small(tiny_runs), tmp_path).done == 0  # without its evaluators it is the same study
    write_points(study, tmp_path)
    assert points(tmp_path) == after


def points(workdir: Path) -> list[dict[str, str]]:
    return list(csv.DictReader((workdir / "points.csv").read_text().splitlines()))
