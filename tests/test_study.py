"""The study command end to end: from a config to the report; killed, restarted, shared, and listed."""

import csv
import json
import random
import re
import runpy
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from finetune_scaling.laws.points.bases import read_bases
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.studies.grid import read_study, runs

CONFIG = f"--config={Path(__file__).with_name('tiny.py')}:study"
QUICKSTART = f"--config={Path(__file__).parents[1] / 'configs' / 'study' / 'quickstart.py'}"
REQUIRED = ["task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out"]
CONDITION = ["parameters", "parameters_non_embedding", "pretrain_tokens", "pet_size", "learning_rate", "flops"]
LISTED = {"task", "method", "factor", "x", "finetune_examples", "seed", "held_out", "state", "flops"}


WITHOUT_REPORT = str(Path(__file__).with_name("study_without_report.py"))

run_in_one_process = runpy.run_path(str(Path(__file__).with_name("command_process.py")))["run_in_one_process"]


def study(*flags: str, program: Sequence[str] = (WITHOUT_REPORT,)) -> subprocess.Popen:
    command = [sys.executable, *program, *flags]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen) -> tuple[int, str, str]:
    printed, errors = process.communicate(timeout=300)
    return process.returncode, printed, errors


def changed(folder: Path, change: str) -> str:
    """Return the flag for a config file that changes the tiny study by a line of Python."""
    path, what = CONFIG.removeprefix("--config=").split(":")
    file = folder / "config.py"
    file.write_text(
        f"import runpy\n\n\ndef get_config():\n    config = runpy.run_path({path!r})['get_config']({what!r})\n"
        f"    {change}\n    return config\n"
    )
    return f"--config={file}"


@pytest.fixture(scope="module")
def uninterrupted(shared_cache, tmp_path_factory) -> tuple[Path, str]:
    """The tiny study, executed without interruption by the command, and its output; read-only."""
    workdir = tmp_path_factory.mktemp("study")
    command = ("-m", "finetune_scaling.study")
    code, printed, errors = result(study(CONFIG, f"--workdir={workdir}", program=command))
    assert code == 0, errors
    return workdir, printed


@pytest.mark.slow
def test_one_command_from_a_config_to_the_report(uninterrupted):
    workdir, printed = uninterrupted
    assert "21 of 21 runs finished; this process: 21 runs trained" in printed
    assert "programs compiled" in printed
    assert f"report: {workdir / 'report' / 'report.html'}" in printed
    assert json.loads((workdir / "report" / "fit.json").read_text())["fits"]
    assert "<html" in (workdir / "report" / "report.html").read_text()
    assert not list(workdir.rglob("failure.json"))

    rows = list(csv.DictReader((workdir / "points.csv").read_text().splitlines()))
    assert list(rows[0])[: len(REQUIRED)] == REQUIRED
    assert {*CONDITION, "stopped_by", "entropy"} <= rows[0].keys()
    expected = {("full", "model"): 6, ("full", "pretrain"): 6, ("lora", "model"): 6, ("prompt", "pet"): 6}
    assert Counter((row["method"], row["factor"]) for row in rows) == expected
    assert {row["x"] for row in rows if row["factor"] == "pretrain"} == {"2560", "5120"}
    assert {row["x"] for row in rows if row["factor"] == "pet"} == {"2", "3"}
    assert {row["x"] for row in rows if row["factor"] == "model"} == {row["parameters"] for row in rows}
    assert all((row["held_out"] == "1") == (row["finetune_examples"] == "40") for row in rows)
    assert all(0 < float(row["entropy"]) < float(row["loss"]) < 6 for row in rows)

    bases = read_bases(workdir / "bases.csv")
    assert {(row["model"], row["pretrain_tokens"]) for _, row in bases.iterrows()} >= {("30k", 5120), ("100k", 5120)}
    for _, base in bases.iterrows():
        record = json.loads((workdir / "bases" / base["family"] / base["model"] / "result.json").read_text())
        assert base["size"] == record["parameters"]
        assert base["loss"] in record["dev_losses"].values()


@pytest.mark.slow
def test_a_study_of_one_base_ends_with_its_report(uninterrupted, tmp_path):
    """Its runs are a part of the finished study, so the command only reports. One of 3 dataset sizes is held out."""
    workdir = Path(shutil.copytree(uninterrupted[0], tmp_path / "study"))
    shutil.rmtree(workdir / "report")
    change = (
        "config.families.grammar.sizes = ('30k',); grids = config.tasks.translation.methods; "
        "config.tasks.translation.methods = {m: {**grids[m], 'factors': ('model',)} for m in ('full', 'lora')}"
    )
    command = ("-m", "finetune_scaling.study")
    code, printed, errors = result(study(changed(tmp_path, change), f"--workdir={workdir}", program=command))
    assert code == 0, errors
    lacks = "the multiplicative law needs 2 model sizes to fit; there is 1"
    assert f"full, lora: {lacks}" in errors  # before the runs
    assert "6 of 6 runs finished; this process: 0 runs trained" in printed
    assert "needs 2 model sizes to fit" in (workdir / "report" / "fit.json").read_text()
    assert "<html" in (workdir / "report" / "report.html").read_text()
    rows = list(csv.DictReader((workdir / "points.csv").read_text().splitlines()))
    assert Counter((row["method"], row["factor"]) for row in rows) == {("full", "model"): 3, ("lora", "model"): 3}
    flags = (f"--points={workdir / 'points.csv'}", "--finetune-examples=20", "--more-data")
    (advice,) = run_in_one_process("finetune_scaling.recommend", [flags])
    assert advice.returncode == 0, advice.stderr
    assert lacks in advice.stdout
    assert "the single law needs 3 dataset sizes to fit; there are 2 and 1 held out" in advice.stdout


@pytest.mark.slow
def test_two_concurrent_processes_execute_every_run_once(uninterrupted, tmp_path):
    one_size = changed(tmp_path, "config.families.grammar.sizes = ('30k',)")
    workdir = tmp_path / "study"
    both = [study(one_size, f"--workdir={workdir}", f"--index={index}", "--of=2") for index in (0, 1)]
    outcomes = [result(process) for process in both]
    assert [code for code, _, _ in outcomes] == [0, 0], outcomes
    counts = [re.search(r"(\d+) of 15 runs finished; this process: (\d+) runs? trained", out) for _, out, _ in outcomes]
    assert [int(match[2]) for match in counts] == [8, 7]
    assert max(int(match[1]) for match in counts) == 15
    assert sum(errors.count("pretraining grammar/30k") for _, _, errors in outcomes) == 1
    assert (workdir / "report" / "report.html").exists()
    expected = (uninterrupted[0] / "points.csv").read_text().splitlines()
    assert (workdir / "points.csv").read_text().splitlines() == [line for line in expected if ",100k," not in line]


@pytest.mark.slow
def test_a_study_killed_repeatedly_ends_with_the_same_points(uninterrupted, tmp_path):
    done, _ = uninterrupted
    workdir = Path(shutil.copytree(done, tmp_path / "study"))
    study_runs = runs(read_study(json.loads((done / "config.json").read_text())))
    deleted = [run for run in study_runs if run.setting.size == "30k"][::2]
    for run in deleted:
        shutil.rmtree(workdir / run.directory)
    shutil.rmtree(workdir / "bases" / "grammar" / "30k")
    (workdir / "points.csv").unlink()
    shutil.rmtree(workdir / "report")
    rng = random.Random(0)
    for wanted in (1, 4):
        process = study(CONFIG, f"--workdir={workdir}")
        wait_for_results(workdir, len(study_runs) - len(deleted) + wanted, process)
        time.sleep(rng.uniform(0, 1))
        process.kill()
        process.communicate()
    code, printed, errors = result(study(CONFIG, f"--workdir={workdir}"))
    assert (code, "21 of 21 runs finished" in printed) == (0, True), errors
    assert (workdir / "points.csv").read_bytes() == (done / "points.csv").read_bytes()
    for run in study_runs:
        records = [RunDirectory(folder / run.directory).result for folder in (done, workdir)]
        assert {**records[0], "seconds": 0} == {**records[1], "seconds": 0}


def wait_for_results(workdir: Path, count: int, process: subprocess.Popen) -> None:
    deadline = time.monotonic() + 200
    while len(list(workdir.glob("runs/*/*/*/result.json"))) < count:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_failing_runs_make_the_exit_code_1_and_leave_the_points_of_the_others(uninterrupted, tmp_path):
    done, _ = uninterrupted
    workdir = Path(shutil.copytree(done, tmp_path / "study"))
    shutil.rmtree(workdir / "report")
    early = list(workdir.glob("runs/translation/full/*_t2560_*"))
    for folder in (*early, *workdir.glob("bases/grammar/*/checkpoints/10")):
        shutil.rmtree(folder)
    code, printed, errors = result(study(CONFIG, f"--workdir={workdir}"))
    assert (code, len(early)) == (1, 3)
    (line,) = (line for line in printed.splitlines() if "finished" in line)
    assert re.findall(r"\d+", line)[:4] == ["18", "21", "0", "3"]  # finished of all; trained and failed in this process
    (error,) = (line for line in errors.splitlines() if line.startswith("error: 3 "))
    assert "--retry-failed" in error
    names = {path.parent.relative_to(workdir).as_posix() for path in workdir.rglob("failure.json")}
    assert {line.split(":")[0].strip() for line in errors.splitlines() if line.startswith("  runs/")} == names
    assert len(names) == 3
    expected = (done / "points.csv").read_text().splitlines()
    assert (workdir / "points.csv").read_text().splitlines() == [line for line in expected if ",2560," not in line]
    assert (workdir / "report" / "report.html").exists()
    (note,) = json.loads((workdir / "study.json").read_text())["notes"]
    assert note.startswith("3 of 21 runs failed")
    assert all(name.removeprefix("runs/") in note for name in names)


@pytest.mark.slow
def test_a_moved_study_is_still_evaluated_and_complete(uninterrupted, tmp_path):
    done = Path(shutil.copytree(uninterrupted[0], tmp_path / "first"))
    shutil.rmtree(done / "report")
    for record in done.glob("runs/**/config.json"):  # as if the study had been trained elsewhere
        record.write_text(record.read_text().replace(str(uninterrupted[0]), "/elsewhere/study"))
    directory = next(done.glob("runs/translation/lora/30k_*_d10_*"))
    out = tmp_path / "scores.json"
    command = [sys.executable, "-m", "finetune_scaling.evaluate", f"--workdir={directory}", f"--out={out}"]
    subprocess.run(command, check=True, capture_output=True)
    assert json.loads(out.read_text())["loss"] == RunDirectory(directory).result["loss"]
    code, printed, errors = result(study(CONFIG, f"--workdir={done}"))
    assert (code, "21 of 21 runs finished; this process: 0 runs trained" in printed) == (0, True), errors
    assert (done / "report" / "report.html").exists()


@pytest.fixture(scope="module")
def messages(uninterrupted, tmp_path_factory) -> dict[str, tuple[int, str, str]]:
    """Return exit code, output and errors of calls that train nothing, all made in one process."""
    folder = tmp_path_factory.mktemp("messages")
    wrong = changed(folder, "config.tasks.translation.methods.full.finetune_examples = (10, 40, 61)")
    workdir = f"--workdir={folder / 'none'}"
    calls = {
        "wrong data": [wrong, workdir],
        "json": [CONFIG, f"--workdir={uninterrupted[0]}", "--list", "--json"],
        "finished": [CONFIG, f"--workdir={uninterrupted[0]}", "--list"],
        "listing": [QUICKSTART, workdir, "--list"],
        "--index=2 must be below --of=2": [CONFIG, workdir, "--index=2", "--of=2"],
        "--json requires --list": [CONFIG, workdir, "--json"],
        "remove --index and --of": [CONFIG, "--list", "--index=0", "--of=2"],
        "factor_size = '2m' is not among": [CONFIG, workdir, "--config.families.grammar.factor_size=2m"],
    }
    found = run_in_one_process("finetune_scaling.study", list(calls.values()))
    assert not (folder / "none").exists()  # none of these calls runs anything
    return dict(zip(calls, found, strict=True))


@pytest.mark.slow
def test_a_config_error_is_reported_before_training(messages):
    code, printed, errors = messages["wrong data"]
    assert (code, printed) == (2, "")
    assert "methods.full: finetune_examples = 61, but the data has 60" in errors


@pytest.mark.slow
def test_json_listing_prints_only_json(messages):
    code, printed, errors = messages["json"]
    assert (code, errors) == (0, "")
    rows = json.loads(printed)
    assert len(rows) == 21
    assert all(row.keys() >= LISTED for row in rows)
    assert all(isinstance(value, str | int | float | bool | None) for row in rows for value in row.values())
    assert {row["state"] for row in rows} == {"done"}
    assert Counter(row["factor"] for row in rows) == {"model": 12, "pretrain": 3, "pet": 6}
    limits, *_, total = messages["finished"][1].splitlines()
    assert total.endswith("; all done")
    assert limits == "this grid does not determine:"


@pytest.mark.slow
def test_a_listing_runs_nothing_and_prints_costs(messages):
    code, printed, errors = messages["listing"]
    assert (code, errors) == (0, "")
    *lines, total = printed.splitlines()
    assert all(line.startswith("waiting ") and "FLOPs" in line for line in lines)
    assert total.startswith(f"{len(lines)} runs (")
    assert "to pretrain 3 bases" in total


@pytest.mark.slow
@pytest.mark.parametrize(
    "expected",
    [
        "--index=2 must be below --of=2",
        "--json requires --list",
        "remove --index and --of",
        "factor_size = '2m' is not among",
    ],
)
def test_user_errors_are_one_line_and_exit_with_2(messages, expected):
    code, printed, errors = messages[expected]
    assert (code, printed, errors.count("\n")) == (2, "", 1), errors
    assert errors.startswith("error: ")
    assert expected in errors
