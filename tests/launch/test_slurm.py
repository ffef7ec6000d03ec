"""launch/slurm.sbatch on a real SLURM: an array shares a study while its tasks are requeued, stopped and killed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
WITHOUT_REPORT = ROOT / "tests" / "study_without_report.py"
SHARES = 4
RUNS = 12
# One size without pretraining tokens; 200 steps are long enough to be interrupted.
STUDY = [
    f"--config={ROOT / 'tests' / 'tiny.py'}:study",
    "--config.families.grammar.sizes=('30k',)",
    "--config.tasks.translation.methods.full.factors=('model',)",
    "--config.tasks.translation.finetune.limits.max_steps=200",
]


@pytest.fixture(scope="module")
def uninterrupted(shared_cache, tmp_path_factory) -> bytes:
    """Return points.csv of the same study, run by one process without SLURM and without a report."""
    workdir = tmp_path_factory.mktemp("uninterrupted")
    command = [sys.executable, WITHOUT_REPORT, *STUDY, f"--workdir={workdir}"]
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, timeout=300)
    return (workdir / "points.csv").read_bytes()


def submit(slurm, workdir: Path, *sbatch: str) -> str:
    """Submit the study and return the job id of the array."""
    command = ["bash", "launch/slurm.sbatch", f"--of={SHARES}", *STUDY, f"--workdir={workdir}", "--"]
    printed = slurm.run(*command, f"--output={workdir.parent}/%a.out", *sbatch, cwd=ROOT)
    return re.match(r"Submitted batch job (\d+)\n", printed)[1]


def study_process(task: str) -> int:
    """Return the process id of a task's study."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and _is_study_of(folder, task):
            return int(folder.name)
    raise AssertionError(f"no process runs task {task}")


def _is_study_of(folder: Path, task: str) -> bool:
    job, index = task.split("_")
    try:
        words = (folder / "cmdline").read_bytes().split(b"\0")
        variables = (folder / "environ").read_bytes().split(b"\0")
    except OSError:  # ended meanwhile
        return False
    wanted = {f"SLURM_ARRAY_JOB_ID={job}".encode(), f"SLURM_ARRAY_TASK_ID={index}".encode()}
    return b"finetune_scaling.study" in words and wanted <= set(variables)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.glob("*")}


@pytest.mark.slow
def test_an_array_whose_tasks_are_stopped_and_killed_ends_with_the_points_of_an_uninterrupted_run(
    slurm, uninterrupted, tmp_path
):
    workdir = tmp_path / "study"
    job = submit(slurm, workdir)
    tasks = [f"{job}_{index}" for index in range(SHARES)]

    def printed(index: int) -> str:
        file = tmp_path / f"{index}.out"
        return file.read_text() if file.exists() else ""

    def state(index: int) -> str:
        return slurm.field(tasks[index], "JobState")

    def trains(index: int) -> bool:
        """Return whether a task is in the middle of a run."""
        begun = re.findall(r"run \d+ of \d+, .*: (runs/\S+)\n", printed(index))
        return bool(begun) and {"metrics.jsonl", "result.json"} & names(workdir / begun[-1]) == {"metrics.jsonl"}

    stops = {
        0: lambda: slurm.run("scontrol", "requeue", tasks[0]),  # as SLURM does with a preempted task
        1: lambda: slurm.run("scancel", "--signal=TERM", "--batch", tasks[1]),  # as SLURM does before the time limit
        2: lambda: os.kill(study_process(tasks[2]), 9),
    }

    def all_stopped() -> bool:
        """Stop each task once it trains, in any order."""
        for index in [index for index in stops if trains(index)]:
            stops.pop(index)()
        return not stops

    slurm.wait("tasks 0, 1 and 2 stopped in a run", all_stopped, 200)
    for index in (0, 1):
        slurm.start_soon(tasks[index])
    slurm.wait("task 2 failed", lambda: state(2) == "FAILED")
    assert slurm.field(tasks[2], "ExitCode") == "137:0"
    slurm.run("scontrol", "requeue", tasks[2])
    slurm.start_soon(tasks[2])
    for index in range(SHARES):
        slurm.wait(f"task {index} completed", lambda index=index: state(index) == "COMPLETED", 200)

    assert [slurm.field(task, "Restarts") for task in tasks] == ["1", "1", "1", "0"]
    assert "preempted: " in printed(0) + printed(1)
    assert f"task {tasks[1]} was stopped in the state RUNNING" in printed(1)
    assert f"{RUNS} of {RUNS} runs finished" in "".join(map(printed, range(SHARES)))
    assert (workdir / "points.csv").read_bytes() == uninterrupted
    assert (workdir / "report" / "report.html").exists()


@pytest.mark.slow
def test_a_cancelled_task_is_not_requeued(slurm, tmp_path):
    job = submit(slurm, tmp_path / "study")
    slurm.wait("all tasks at work", lambda: len(list(tmp_path.glob("*.out"))) == SHARES)
    slurm.run("scancel", job)
    slurm.wait("an empty queue", lambda: not slurm.run("squeue", "--noheader"))
    assert {slurm.field(f"{job}_{index}", "JobState") for index in range(SHARES)} == {"CANCELLED"}


@pytest.mark.slow
def test_a_task_with_a_wrong_config_fails_with_the_code_of_the_study(slurm, tmp_path):
    file = tmp_path / "wrong.py"
    file.write_text("def get_config():\n    return {'name': 'wrong'}\n")
    command = ["bash", "launch/slurm.sbatch", "--of=1", f"--config={file}", f"--workdir={tmp_path / 'study'}", "--"]
    printed = slurm.run(*command, f"--output={tmp_path}/%a.out", cwd=ROOT)
    task = re.match(r"Submitted batch job (\d+)\n", printed)[1] + "_0"
    slurm.wait("it failed", lambda: slurm.field(task, "JobState") == "FAILED")
    assert slurm.field(task, "ExitCode") == "2:0"
    assert "error: " in (tmp_path / "0.out").read_text()
