"""Evaluators over several processes write the records of one process."""

import json
import shutil

import numpy as np
import pytest

from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.experiments.run import run
from finetune_scaling.runs.evaluators import TaskEvaluator, TextEvaluator

EVALUATORS = {"few_shot_1": TaskEvaluator(shots=1, examples=5, generate=3), "pretraining": TextEvaluator(rows=5)}


@pytest.mark.slow
def test_two_processes_write_the_records_of_one(tiny_runs, together, tmp_path):
    base = shutil.copytree(tiny_runs.base, tmp_path / "base")
    run(tiny_runs.config("prompt", base={"run": str(base)}), tmp_path / "one")
    shutil.copytree(tmp_path / "one", tmp_path / "two")
    assert not run_evaluations(
        plan_evaluations([str(tmp_path / "one")], lambda *_: EVALUATORS, EvaluationOptions()), EvaluationOptions()
    )
    shutil.rmtree(base / "evaluation")
    flags = [f"--workdir={tmp_path / 'two'}", f"--evaluators={','.join(EVALUATORS)}", "--examples=5", "--generate=3"]
    ends = together.wait(together.start([["-m", "finetune_scaling.evaluate", *flags, "--fsdp=2"]] * 2), 300)
    assert [end.code for end in ends] == [0, 0], ends
    assert len({tuple(end.output.splitlines()[-2:]) for end in ends}) == 1
    for name, split in zip(EVALUATORS, ("test", "text"), strict=True):
        folders = [tmp_path / name / "evaluation" for name in ("one", "two")]
        one, two = (json.loads((folder / f"{name}.json").read_text()) for folder in folders)
        assert one["settings"] == two["settings"]
        for left, right in ((one, two), (one["untuned"], two["untuned"])):
            np.testing.assert_allclose(right["loss"], left["loss"], rtol=1e-4)
        assert len({(folder / f"{name}.{split}.jsonl").read_text().count("\n") for folder in folders}) == 1
