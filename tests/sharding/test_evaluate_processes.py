"""Evaluators over several processes: the records of one, and one word to say of each."""

import json
import shutil

import numpy as np
import pytest

from finetune_scaling.runs.run import run

ASKED = ("--evaluators=few_shot_1,pretraining", "--examples=5", "--generate=3")


@pytest.mark.slow
def test_two_processes_write_the_records_of_one(tiny_runs, together, tmp_path):
    directories = []
    for name in ("one", "two"):
        base = shutil.copytree(tiny_runs.base, tmp_path / name / "base")
        run(tiny_runs.config("prompt", base={"run": str(base)}), tmp_path / name / "run")
        directories.append(tmp_path / name / "run")
    command = ["-m", "finetune_scaling.evaluate", *ASKED]
    (alone,) = together.wait(together.start([[*command, f"--workdir={directories[0]}"]]))
    several = together.wait(together.start([[*command, f"--workdir={directories[1]}", "--fsdp=2"]] * 2))
    assert [end.code for end in (alone, *several)] == [0] * 3, (alone, several)
    assert several[0].output == several[1].output
    for name, split in (("few_shot_1", "test"), ("pretraining", "text")):
        one, two = (json.loads((place / "evaluation" / f"{name}.json").read_text()) for place in directories)
        assert one["settings"] == two["settings"]
        for left, right in ((one, two), (one["untuned"], two["untuned"])):
            np.testing.assert_allclose(right["loss"], left["loss"], rtol=1e-4)
        rows = [
            place / "evaluation" / f"{name}.{'test' if one['demonstrations'] else 'text'}.jsonl"
            for place in directories
        ]
        assert len({len(path.read_text().splitlines()) for path in rows}) == 1
