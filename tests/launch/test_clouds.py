"""tpu_vm.sh, gke_xpk.sh and sky.sh with programs that simulate the clouds: which calls are made in which order,
what faults do, and that nothing paid is left. A TPU's workers are folders, where the remote part runs for real.
"""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TRAIN = ["python", "-m", "finetune_scaling.train", "--config=configs/c.py"]
LOCAL = [*TRAIN, "--workdir=runs/one"]
BUCKET = [*TRAIN, "--config.seeds=(0, 1)", "--workdir=gs://bucket/one"]
TPU = ["--name=one", "--zone=us-west4-a", "--type=v5litepod-8"]
POD = ["--name=one", "--zone=us-west4-a", "--type=v5litepod-16"]
GKE = ["--name=one", "--cluster=big", "--project=proj", "--zone=us-west4-a", "--type=v5litepod-16"]
SKY = ["--name=one", "--gpus=H100:1"]

# Every program records its call. A line PATTERN|CODE|REST of the file faults makes the first call that contains PATTERN
# exit with CODE; then the line is removed, unless REST is "always".
RECORD = """#!/usr/bin/env bash
call="$(basename "$0") $*"
echo "$call" >>"$FAKE/calls"
while IFS='|' read -r pattern code rest; do
  if [[ "$call" == *"$pattern"* ]]; then
    [[ "$rest" == always ]] && exit "$code"
    grep -vxF "$pattern|$code|$rest" "$FAKE/faults" >"$FAKE/rest"
    mv "$FAKE/rest" "$FAKE/faults"
    exit "$code"
  fi
done <"$FAKE/faults"
"""

# states: output of `describe`, one line per call, the last one repeated; no file: the resource does not exist.
GCLOUD = r"""
value() { local word; for word in "${@:2}"; do [[ "$word" != "--$1="* ]] || echo "${word#*=}"; done; }
workers() { [[ "$(value worker "$@")" == all ]] && ls -d "$FAKE"/worker* || echo "$FAKE/worker$(value worker "$@")"; }
case "$3 $4" in
  "queued-resources create")
    sleep "$(cat "$FAKE/seconds_to_create")"
    cp "$FAKE/states_of_a_new_one" "$FAKE/states"
    cp -r "$FAKE/image" "$FAKE/worker0"
    [[ "$(value accelerator-type "$@")" == *-8 ]] || cp -r "$FAKE/image" "$FAKE/worker1"
    [[ ! -f "$FAKE/fails_but_is_granted" ]] || exit 1
    ;;
  "queued-resources describe")
    [[ -f "$FAKE/states" ]] || { echo "ERROR: (gcloud) NOT_FOUND: Resource 'one' was not found" >&2; exit 1; }
    head -n 1 "$FAKE/states"
    [[ $(wc -l <"$FAKE/states") == 1 ]] || sed -i 1d "$FAKE/states"
    ;;
  "queued-resources delete") rm -rf "$FAKE/states" "$FAKE"/worker* ;;
  "tpu-vm scp")
    for worker in $(workers "$@"); do cp -r "${5/#*:/$worker/}" "${6/#*:/$worker/}" || exit; done ;;
  "tpu-vm ssh")
    code=0
    for worker in $(workers "$@"); do
      (cd "$worker" && HOME="$worker" bash -c "$(value command "$@")") || code=$?
    done
    exit "$code"
    ;;
  "describe big")
    [[ -f "$FAKE/cluster" ]] || { echo "ERROR: ResponseError: code=404, message=Not found: big" >&2; exit 1; } ;;
esac
"""
XPK = r"""
case "$1 $2" in
  "cluster create") touch "$FAKE/cluster" ;;
  "cluster delete") rm "$FAKE/cluster" ;;
  "workload create") touch "$FAKE/jobset" ;;
  "workload delete") rm -f "$FAKE/jobset" ;;
  "workload list") sleep "$(cat "$FAKE/seconds")" ;;
esac
"""
KUBECTL = r"""
[[ "$1" != get || ! -f "$FAKE/jobset" ]] || echo jobset/one
[[ "$1" != logs ]] || echo "a line of a pod"
"""
SKY_PROGRAM = r"""
case "$1" in
  launch) touch "$FAKE/cluster" ;;
  exec) sleep "$(cat "$FAKE/seconds")" ;;
  down) rm -f "$FAKE/cluster" ;;
esac
"""

# The Python of a worker: the file `program` plays the package; nothing is installed.
WORKER_PYTHON = """#!/usr/bin/env bash
case "$*" in
  "-m pip --version") ;;
  "-m pip install"*) echo "worker pip ${!#}" >>"$FAKE/calls" ;;
  "-m finetune_scaling."*) exec bash "$FAKE/program" "$@" ;;
  *) exec "$REAL_PYTHON" "$@" ;;
esac
"""
PROGRAM = """
echo "worker distributed=$FINETUNE_SCALING_DISTRIBUTED $*" >>"$FAKE/calls"
workdir="${!#}"; workdir="${workdir#--workdir=}"
[[ "$workdir" == gs://* ]] || { mkdir -p "$workdir"; echo result >>"$workdir/result"; }
trap 'echo "worker saved" >>"$FAKE/calls"; exit 75' TERM
echo "training"
sleep "$(cat "$FAKE/seconds")" & wait $!
exit "$(cat "$FAKE/code")"
"""


class Clouds:
    """A copy of the launch scripts, and programs that simulate gcloud, xpk, kubectl, sky and rsync."""

    def __init__(self, folder: Path):
        self.repository, self.fake = folder / "repository", folder / "fake"
        shutil.copytree(ROOT / "launch", self.repository / "launch")
        shutil.copytree(ROOT / "configs", self.repository / "configs")
        (self.repository / "configs" / "c.py").touch()
        for name in ("setup.py", "pyproject.toml"):
            shutil.copy(ROOT / name, self.repository)
        shutil.copytree(ROOT / "constraints", self.repository / "constraints")
        programs = {"gcloud": GCLOUD, "xpk": XPK, "kubectl": KUBECTL, "sky": SKY_PROGRAM, "rsync": ""}
        for name, text in programs.items():
            self.program(f"bin/{name}", RECORD + text)
        self.program("image/finetune_scaling/.venv/bin/python", WORKER_PYTHON)
        self.write(calls="", faults="", seconds="0", seconds_to_create="0", code="0", program=PROGRAM)
        self.write(states_of_a_new_one="WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE\n")
        path = f"{self.fake / 'bin'}:{os.environ['PATH']}"
        self.environment = {**os.environ, "PATH": path, "FAKE": str(self.fake), "TMPDIR": str(folder)}
        self.environment.update(LAUNCH_POLL_SECONDS="0.1", REAL_PYTHON=sys.executable, PYTHON=sys.executable)

    def program(self, name: str, text: str) -> None:
        file = self.fake / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)

    def write(self, **files: str) -> None:
        for name, text in files.items():
            (self.fake / name).write_text(text)

    @property
    def calls(self) -> list[str]:
        return (self.fake / "calls").read_text().splitlines()

    def verbs(self, *of_interest: str) -> list[str]:
        """Return the given words of the recorded calls in order."""
        found = (next((word for word in of_interest if word in call), None) for call in self.calls)
        return [word for word in found if word]

    def start(self, script: str, *arguments: str) -> subprocess.Popen:
        command = ["bash", str(self.repository / "launch" / script), *arguments]
        pipe = subprocess.PIPE
        return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=self.environment, cwd=self.repository)

    def run(self, script: str, *arguments: str) -> tuple[int, str, str]:
        process = self.start(script, *arguments)
        printed, errors = process.communicate(timeout=60)
        return process.returncode, printed, errors

    def interrupt(self, number: int, when: Callable[[], bool], script: str, *arguments: str) -> tuple[int, str, str]:
        """Run a script and send it a signal once `when()` is true."""
        process = self.start(script, *arguments)
        deadline = time.monotonic() + 120
        while not when():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline, self.calls
            time.sleep(0.02)
        process.send_signal(number)
        printed, errors = process.communicate(timeout=60)
        return process.returncode, printed, errors

    def left(self) -> list[str]:
        """Return what would cost money, and files that were not removed."""
        paid = [file.name for name in ("states", "cluster", "jobset", "worker*") for file in self.fake.glob(name)]
        return paid + [file.name for file in self.fake.parent.glob("finetune_scaling-*")]


@pytest.fixture
def clouds(tmp_path) -> Clouds:
    return Clouds(tmp_path)


def result(clouds: Clouds) -> list[str]:
    """Return the lines of the fetched result: one for each start of the program."""
    return (clouds.repository / "runs" / "one" / "result").read_text().splitlines()


STEPS = ("create", "install.sh", "detached.sh start", "detached.sh follow", "results.tgz", "delete")


def test_a_tpu_vm_is_rented_used_and_deleted(clouds):
    code, printed, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert code == 0, errors
    # results.tgz twice: packed there, then copied
    assert clouds.verbs(*STEPS) == [*STEPS[:-1], "results.tgz", "delete"]
    assert "worker distributed= -m finetune_scaling.train --config=configs/c.py --workdir=runs/one" in clouds.calls
    installed = [call for call in clouds.calls if call.startswith("worker pip")]
    assert [call.partition("[")[2] for call in installed] == ["tpu,gcs]"]
    assert re.search(r"^one: WAITING_FOR_RESOURCES\none: PROVISIONING\none: ACTIVE$", printed, flags=re.MULTILINE)
    assert re.search(r"^\[.+\] training$", printed, flags=re.MULTILINE)
    assert "queued-resources list --zone=us-west4-a" in printed.splitlines()[-1]
    assert (result(clouds), clouds.left()) == (["result"], [])


def test_all_workers_of_a_slice_run_one_program_and_its_bucket_is_not_fetched(clouds):
    code, _, errors = clouds.run("tpu_vm.sh", *POD, "--spot", "--project=proj", "--", *BUCKET)
    assert code == 0, errors
    started = [call for call in clouds.calls if call.startswith("worker distributed")]
    assert started == ["worker distributed=auto " + " ".join(BUCKET[1:])] * 2
    assert clouds.verbs(*STEPS) == [*STEPS[:-2], "delete"]
    assert all("--project=proj" in call for call in clouds.calls if call.startswith("gcloud"))
    create = next(call for call in clouds.calls if "queued-resources create" in call)
    wanted = "--node-id=one --accelerator-type=v5litepod-16 --runtime-version=v2-alpha-tpuv5-lite"
    assert wanted in create
    assert create.endswith("--valid-until-duration=6h --spot")
    assert clouds.left() == []


@pytest.mark.parametrize(
    ("fault", "expected"),
    [
        ("queued-resources create|1", 1),
        ("tpu-vm scp|1", 1),
        ("install.sh|3", 3),
        ("detached.sh start|255", 255),
        ("detached.sh follow|9", 9),
    ],
)
def test_the_tpu_is_deleted_after_any_failure(clouds, fault, expected):
    clouds.write(faults=f"{fault}|\n")
    code, _, _ = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left()) == (expected, [])
    assert ("delete" in clouds.verbs("delete")) == ("create" not in fault)


def test_a_request_that_fails_but_is_granted_is_deleted(clouds):
    clouds.write(fails_but_is_granted="")
    assert clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)[0] == 1
    assert (clouds.left(), clouds.verbs("create", "delete")) == ([], ["create", "delete"])


def test_a_resource_of_unknown_state_is_deleted_once_its_state_is_known(clouds):
    clouds.write(faults="".join(f"describe|1|{number}\n" for number in range(12)), states="ACTIVE\n")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left(), set(clouds.verbs("create", "delete"))) == (1, [], {"delete"}), errors


def test_temporary_errors_of_describe_are_harmless(clouds):
    clouds.write(faults="describe|1|\ndescribe|1|again\ndetached.sh follow|255|\n", seconds="1")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.verbs("create", "delete"), result(clouds)) == (0, ["create", "delete"], ["result"]), errors


def test_machines_are_released_if_the_output_is_closed(clouds):
    clouds.write(seconds="2")
    process = clouds.start("tpu_vm.sh", *TPU, "--", *LOCAL)
    while not is_training(clouds):
        time.sleep(0.02)
    process.stdout.close()
    process.stderr.close()
    process.wait(timeout=60)
    assert (result(clouds), clouds.left()) == (["result"], [])


def test_results_of_a_run_that_failed_are_fetched(clouds):
    clouds.write(code="1")
    code, printed, _ = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, result(clouds), clouds.left()) == (1, ["result"], [])
    assert "training" in printed


def test_failed_fetching_is_retried_and_reported(clouds):
    clouds.write(faults="one:results.tgz|1|\none:results.tgz|1|again\n")
    assert clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)[0] == 0
    assert result(clouds) == ["result"]
    clouds.write(faults="one:results.tgz|1|always\n")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left()) == (1, [])
    assert "fetching runs/one failed, try 3 of 3" in errors


def test_a_lost_connection_is_restored_while_the_command_runs(clouds):
    clouds.write(faults="detached.sh follow|255|\ndetached.sh follow|255|again\n", seconds="1", code="4")
    code, _, _ = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, result(clouds), clouds.left()) == (4, ["result"], [])
    assert clouds.verbs("follow 20", "follow") == ["follow", "follow 20", "follow 20"]


@pytest.mark.parametrize(("attempts", "expected"), [("1", 75), ("2", 0)])
def test_a_preempted_slice_is_deleted_and_rented_again_up_to_attempts(clouds, attempts, expected):
    clouds.write(states_of_a_new_one="ACTIVE\nSUSPENDING\nSUSPENDED\n", faults="detached.sh follow|255|\n")
    process = clouds.start("tpu_vm.sh", *TPU, "--spot", f"--attempts={attempts}", "--", *BUCKET)
    while not clouds.verbs("follow"):
        time.sleep(0.02)
    clouds.write(states_of_a_new_one="ACTIVE\n")
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, clouds.left()) == (expected, []), errors
    assert clouds.verbs("create", "delete") == ["create", "delete"] * int(attempts)
    assert f"attempt 1 of {attempts} was preempted" in errors


@pytest.mark.parametrize("state", ["FAILED", "SUSPENDED"])
def test_a_failed_resource_is_replaced(clouds, state):
    clouds.write(states=f"{state}\n")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.verbs("create", "delete")) == (0, ["delete", "create", "delete"]), errors


def test_a_request_that_fails_in_the_queue_is_not_repeated(clouds):
    clouds.write(states_of_a_new_one="WAITING_FOR_RESOURCES\nFAILED\n")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.verbs("create"), clouds.left()) == (1, ["create"], [])
    assert "error: one: the request failed" in errors


def is_training(clouds: Clouds) -> bool:
    return any(call.startswith("worker distributed") for call in clouds.calls)


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 143)])
def test_after_a_signal_the_run_saves_and_the_tpu_is_deleted(clouds, number, expected):
    clouds.write(seconds="60")
    code, _, _ = clouds.interrupt(number, lambda: is_training(clouds), "tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, result(clouds), clouds.left()) == (expected, ["result"], [])
    steps = ("detached.sh stop", "worker saved", "results.tgz", "delete")
    assert clouds.verbs(*steps) == [*steps[:-1], "results.tgz", "delete"]


def test_a_signal_in_the_queue_deletes_the_request(clouds):
    clouds.write(states_of_a_new_one="WAITING_FOR_RESOURCES\n")
    waits = lambda: clouds.verbs("describe").count("describe") > 2  # noqa: E731
    code, _, _ = clouds.interrupt(signal.SIGINT, waits, "tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left(), clouds.verbs("create", "ssh", "delete")) == (130, [], ["create", "delete"])


def test_a_signal_during_the_request_waits_for_the_answer_and_deletes(clouds):
    clouds.write(seconds_to_create="1")
    code, _, _ = clouds.interrupt(signal.SIGINT, lambda: bool(clouds.verbs("create")), "tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left(), clouds.verbs("create", "ssh", "delete")) == (130, [], ["create", "delete"])


def test_a_failed_deletion_is_retried_and_reported(clouds):
    clouds.write(faults="queued-resources delete|1|\nqueued-resources delete|1|again\n")
    code, _, _ = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert (code, clouds.left(), len(clouds.verbs("delete"))) == (0, [], 3)
    clouds.write(faults="queued-resources delete|1|always\n")
    code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert code == 1
    assert "error: one may still exist and cost money (state: ACTIVE); delete it by hand: gcloud " in errors


def test_the_same_command_after_a_power_cut_finds_the_running_command(clouds):
    clouds.write(seconds="4")
    process = clouds.start("tpu_vm.sh", *TPU, "--", *LOCAL)
    while not is_training(clouds):
        time.sleep(0.02)
    process.kill()  # the renting machine is lost
    process.wait()
    assert "states" in clouds.left()
    code, printed, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
    assert code == 0, errors
    assert "already running" in printed
    assert clouds.verbs("create", "delete") == ["create", "delete"]
    assert (result(clouds), clouds.left()) == (["result"], [])  # started once


def test_local_results_are_sent_first(clouds):
    for times in (1, 2):
        code, _, errors = clouds.run("tpu_vm.sh", *TPU, "--", *LOCAL)
        assert (code, result(clouds)) == (0, ["result"] * times), errors


def pasted(clouds: Clouds, printed: str) -> int:
    """Run the output of a dry run as a script."""
    return subprocess.run(["bash", "-e", "-c", printed], env=clouds.environment, cwd=clouds.repository).returncode


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("tpu_vm.sh", [*TPU, "--", *LOCAL], STEPS),
        ("tpu_vm.sh", [*POD, "--spot", "--", *BUCKET], (*STEPS[:-2], "delete")),
        (
            "gke_xpk.sh",
            [*GKE, "--temporary-cluster", "--", *BUCKET],
            ("cluster create", "get-credentials", "workload create", "logs", "workload list", "workload delete",
             "cluster delete"),
        ),
        ("sky.sh", [*SKY, "--", *LOCAL], ("sky launch", "sky exec", "sky cancel", "rsync", "sky down")),
        ("slurm.sbatch", ["--of=4", "--config=launch/sky.sh", "--workdir=runs/x", "--", "--gpus=1"], ("--array=0-3",)),
    ],
)  # fmt: skip
def test_a_dry_run_prints_everything_and_runs_nothing(clouds, script, arguments, expected):
    clouds.environment.pop("VIRTUAL_ENV", None)  # and no .venv: nothing has to be installed
    code, printed, errors = clouds.run(script, "--dry-run", *arguments)
    assert (code, errors, clouds.calls, clouds.left()) == (0, "", [], [])
    places = [printed.index(step) for step in expected]
    assert places == sorted(places), printed
    if script not in ("slurm.sbatch",):
        clouds.write(states_of_a_new_one="ACTIVE\n")
        assert pasted(clouds, printed) == 0
        assert clouds.left() == []


def test_the_printed_commands_are_the_ones_that_run(clouds):
    clouds.write(states_of_a_new_one="ACTIVE\n")
    arguments = [*TPU, "--spot", "--", *BUCKET]
    _, printed, _ = clouds.run("tpu_vm.sh", "--dry-run", *arguments)
    assert pasted(clouds, printed) == 0
    from_paste = [call for call in clouds.calls if call.startswith("gcloud") and "describe" not in call]
    clouds.write(calls="")
    assert clouds.run("tpu_vm.sh", *arguments)[0] == 0
    assert [call for call in clouds.calls if call.startswith("gcloud") and "describe" not in call] == from_paste


WORKLOAD = ("cluster create", "workload create", "workload list", "workload delete", "cluster delete")


def test_an_existing_cluster_is_not_deleted(clouds):
    clouds.write(cluster="")
    code, printed, errors = clouds.run("gke_xpk.sh", *GKE, "--", *BUCKET)
    assert (code, clouds.left()) == (0, ["cluster"]), errors
    assert clouds.verbs(*WORKLOAD) == list(WORKLOAD[1:-1])
    create = next(call for call in clouds.calls if "workload create" in call)
    command = shlex.join(["FINETUNE_SCALING_DISTRIBUTED=auto", ".venv/bin/python", *BUCKET[1:]])
    assert create.endswith(f"--command=bash launch/install.sh tpu,gcs && exec env {command}")
    assert "--restart-on-exit-codes=75" in create
    assert "gcloud container clusters list --project=proj" in printed.splitlines()[-1]


@pytest.mark.parametrize(
    ("fault", "expected"),
    [("cluster create|1", 1), ("get-credentials|1", 1), ("workload create|1", 1), ("workload list|125", 1)],
)
def test_workload_and_temporary_cluster_are_deleted_after_any_failure(clouds, fault, expected):
    clouds.write(faults=f"{fault}|\n")
    code, _, _ = clouds.run("gke_xpk.sh", *GKE, "--temporary-cluster", "--", *BUCKET)
    assert (code, clouds.left()) == (expected, [])


def test_a_signal_deletes_the_workload_and_a_second_start_uses_an_existing_one(clouds):
    clouds.write(cluster="", seconds="60")
    waits = lambda: clouds.verbs("workload list", "kubectl logs").count("kubectl logs") > 1  # noqa: E731
    code, printed, _ = clouds.interrupt(signal.SIGINT, waits, "gke_xpk.sh", *GKE, "--", *BUCKET)
    assert (code, clouds.left()) == (130, ["cluster"])
    assert "a line of a pod" in printed
    clouds.write(calls="", seconds="0", jobset="")
    code, printed, _ = clouds.run("gke_xpk.sh", *GKE, "--", *BUCKET)
    assert (code, clouds.left()) == (0, ["cluster"])
    assert "workload one exists already" in printed
    assert "workload create" not in clouds.verbs(*WORKLOAD)


def test_a_missing_cluster_is_an_error_and_nothing_is_deleted(clouds):
    code, _, errors = clouds.run("gke_xpk.sh", *GKE, "--", *BUCKET)
    assert (code, clouds.verbs("create", "delete")) == (2, [])
    assert errors == "error: cluster big does not exist in us-west4; --temporary-cluster creates it for this command\n"


def test_a_cluster_that_cannot_be_deleted_is_reported(clouds):
    clouds.write(faults="cluster delete|1|always\n")
    code, _, errors = clouds.run("gke_xpk.sh", *GKE, "--temporary-cluster", "--", *BUCKET)
    assert code == 1
    assert "may still exist and cost money" in errors


def test_sky_rents_runs_fetches_and_ends(clouds):
    (clouds.repository / "runs" / "one").mkdir(parents=True)
    code, printed, errors = clouds.run("sky.sh", *SKY, "--infra=gcp/us-central1", "--", *LOCAL)
    assert (code, clouds.left()) == (0, []), errors
    verbs = clouds.verbs("sky launch", "rsync", "sky exec", "sky down")
    assert verbs == ["sky launch", "rsync", "sky exec", "rsync", "sky down"]
    launch, execute = (next(call for call in clouds.calls if f"sky {verb}" in call) for verb in ("launch", "exec"))
    assert "--gpus=H100:1 --infra=gcp/us-central1 --env EXTRA=cuda,gcs --env" in launch
    assert "--env COMMAND=" + " ".join(LOCAL) in execute
    assert "sky status" in printed.splitlines()[-1]


@pytest.mark.parametrize("fault", ["sky launch|1", "sky exec|100", "rsync|12"])
def test_the_sky_cluster_is_ended_after_any_failure(clouds, fault):
    clouds.write(faults=f"{fault}|always\n")
    code, _, _ = clouds.run("sky.sh", *SKY, "--", *LOCAL)
    assert (code, clouds.left()) == (1, [])
    assert "sky down --yes one" in clouds.calls


def test_a_signal_cancels_the_job_fetches_and_ends_the_sky_cluster(clouds):
    clouds.write(seconds="60")
    runs = lambda: bool(clouds.verbs("sky exec"))  # noqa: E731
    code, _, _ = clouds.interrupt(signal.SIGINT, runs, "sky.sh", *SKY, "--", *LOCAL)
    assert (code, clouds.left()) == (130, [])
    verbs = clouds.verbs("sky exec", "sky cancel", "rsync", "sky down")
    assert verbs == ["sky exec", "sky cancel", "rsync", "sky down"]


def test_a_tpu_slice_of_sky_is_one_program(clouds):
    code, _, errors = clouds.run("sky.sh", "--name=one", "--gpus=tpu-v6e-32", "--", *BUCKET)
    assert code == 0, errors
    assert "--env EXTRA=tpu,gcs --env DISTRIBUTED=auto" in next(call for call in clouds.calls if "sky exec" in call)


@pytest.mark.parametrize(
    ("script", "arguments", "expected"),
    [
        ("tpu_vm.sh", ["--zone=us-west4-a", "--type=v4-8", "--", *LOCAL], "--name= is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--name=Big_One", "--", *LOCAL], "--name=Big_One is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--zone=us-west4", "--", *LOCAL], "--zone=us-west4 is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--type=v5e-8", "--", *LOCAL], "--type=v5e-8 is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--attempts=0", "--", *LOCAL], "--attempts=0 is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--wait=soon", "--", *LOCAL], "--wait=soon is missing or wrong"),
        ("tpu_vm.sh", [*TPU, "--spots", "--", *LOCAL], "'--spots': write --OPTION=VALUE with one of"),
        ("tpu_vm.sh", TPU, "after -- comes the command"),
        ("tpu_vm.sh", [*TPU, "--", "rm", "-r", "x"], "after -- comes the command"),
        ("tpu_vm.sh", [*TPU, "--", *TRAIN], "the command needs --workdir"),
        ("tpu_vm.sh", [*TPU, "--", *TRAIN, "--workdir=/data/x"], "--workdir=/data/x: name a bucket"),
        ("tpu_vm.sh", [*TPU, "--", *TRAIN, "--workdir=runs/../x"], "--workdir=runs/../x: name a bucket"),
        ("tpu_vm.sh", [*POD, "--", *LOCAL], "v5litepod-16 has several hosts, which share no disk"),
        ("tpu_vm.sh", [*TPU, "--spot", "--", *LOCAL], "a spot VM that is preempted takes its disk along"),
        ("tpu_vm.sh", [*TPU, "--", *TRAIN[:2], "finetune_scaling.study", "--workdir=gs://b/x"], "file locks"),
        ("tpu_vm.sh", [*TPU, "--", *TRAIN[:3], LOCAL[-1]], "the command needs --config=FILE"),
        ("tpu_vm.sh", [*TPU, "--", *LOCAL, "--config=none.py"], "--config=none.py: no such file"),
        ("gke_xpk.sh", [*GKE, "--", *BUCKET, "--config=none.py:1b,lora"], "--config=none.py:1b,lora: no such file"),
        ("sky.sh", [*SKY, "--", *LOCAL, "--config=none.py"], "--config=none.py: no such file"),
        ("sky.sh", [*SKY, "--", *LOCAL, f"--config={__file__}"], f"--config={__file__}: no such file"),
        ("sky.sh", [*SKY, "--", *LOCAL, "--config=launch/../setup.py"], "--config=launch/../setup.py: no such file"),
        ("gke_xpk.sh", [*GKE, "--", *LOCAL], "the disk of a pod ends with it"),
        ("gke_xpk.sh", [*GKE, "--restarts=many", "--", *BUCKET], "--restarts=many is missing or wrong"),
        ("sky.sh", ["--name=one", "--", *LOCAL], "--gpus= is missing or wrong"),
        ("sky.sh", ["--name=one", "--gpus=tpu-v6e-16", "--", *LOCAL], "tpu-v6e-16 has several hosts"),
        ("sky.sh", [*SKY, "--infra=a b", "--", *LOCAL], "--infra=a b is missing or wrong"),
        ("slurm.sbatch", ["--config=launch/sky.sh", "--workdir=x"], "--of=N is missing"),
        ("slurm.sbatch", ["--of=2", "--workdir=x"], "--config=FILE is missing"),
        ("slurm.sbatch", ["--of=2", "--config=none.py", "--workdir=x"], "--config=none.py: no such file"),
        ("slurm.sbatch", ["--of=2", "--config=launch/sky.sh"], "--workdir=DIR is missing"),
        ("slurm.sbatch", ["--of=2", "--config=launch/sky.sh", "--workdir=gs://b/x"], "file locks"),
        ("slurm.sbatch", ["--of=2", "--config=launch/sky.sh", "--workdir=x", "--", "--array=1"], "--of=2"),
        ("slurm.sbatch", ["--of=2", "--index=1"], "unknown argument '--index=1'"),
        ("install.sh", ["gpu"], "unknown argument 'gpu'"),
        ("install.sh", ["tpu,gpu"], "unknown argument 'tpu,gpu'"),
        ("install.sh", ["tpu,"], "unknown argument 'tpu,'"),
        ("install.sh", ["base,gcs"], "unknown argument 'base,gcs'"),
        ("detached.sh", ["start"], "usage: "),
    ],
)  # fmt: skip
def test_usage_errors_are_one_line_before_anything_is_rented(clouds, script, arguments, expected):
    clouds.environment["VIRTUAL_ENV"] = sys.prefix
    code, printed, errors = clouds.run(script, *arguments)
    assert (code, printed, clouds.calls, errors.count("\n")) == (2, "", [], 1), errors
    assert expected in errors


def test_a_study_is_submitted_from_the_root_of_the_repository_only(tmp_path):
    command = ["bash", str(ROOT / "launch" / "slurm.sbatch"), "--of=1", "--config=x", "--workdir=y"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"error: {tmp_path} is not the repository's root; run this from there\n"


def test_a_study_is_submitted_only_with_a_python_to_run_it(clouds):
    clouds.environment.pop("VIRTUAL_ENV", None)
    code, printed, errors = clouds.run("slurm.sbatch", "--of=1", "--config=configs/c.py", "--workdir=x")
    assert (code, printed) == (2, "")
    assert errors.startswith(f"error: {clouds.repository}/.venv/bin/python is missing; first run: ")


def test_a_command_that_takes_no_config_needs_none(clouds):
    command = ["python", "-m", "finetune_scaling.evaluate", "--workdir=runs/one"]
    assert clouds.run("sky.sh", "--dry-run", *SKY, "--", *command)[0] == 0


def extras_of_setup() -> list[str]:
    body = ast.parse((ROOT / "setup.py").read_text()).body
    value = next(node.value for node in body if isinstance(node, ast.Assign) and node.targets[0].id == "EXTRAS")
    return [key.value for key in value.keys]


@pytest.mark.parametrize("extras", ["tpu,gcs", "cuda,gcs", *extras_of_setup(), ",".join(extras_of_setup())])
def test_extras_are_installed_separately_and_together(clouds, extras):
    code, printed, errors = clouds.run("install.sh", "--dry-run", extras)
    assert (code, errors) == (0, "")
    assert printed.endswith(f"-m pip install --editable '{clouds.repository}[{extras}]'\n")


def test_the_default_extras_of_the_sky_task_include_buckets():
    assert re.findall(r"EXTRA[:=] ?(\S+)", (ROOT / "launch" / "sky.yaml").read_text()) == ["cuda,gcs"] * 2


DOCUMENTED = re.findall(
    r"^    bash launch/((?:tpu_vm|gke_xpk|sky|install)\.sh|slurm\.sbatch) (.+)$",
    (ROOT / "docs" / "launching.md").read_text(),
    flags=re.MULTILINE,
)


def test_the_documentation_shows_each_script_that_rents_or_submits():
    assert {script for script, _ in DOCUMENTED} == {"tpu_vm.sh", "gke_xpk.sh", "sky.sh", "install.sh", "slurm.sbatch"}


@pytest.mark.parametrize(("script", "arguments"), DOCUMENTED)
def test_commands_of_the_documentation_are_accepted(clouds, script, arguments):
    code, _, errors = clouds.run(script, "--dry-run", *shlex.split(arguments))
    assert (code, errors) == (0, "")


def test_python_is_installed_only_if_none_is_recent(clouds):
    _, printed, _ = clouds.run("install.sh", "--dry-run", "--with-python", "tpu")
    assert "uv" not in printed
    assert printed.endswith(f"-m pip install --editable '{clouds.repository}[tpu]'\n")
    for name in ("python3.11", "python3.12", "python3.13", "python3", "python"):
        clouds.program(f"bin/{name}", "#!/usr/bin/env bash\nexit 1\n")
    del clouds.environment["PYTHON"]
    _, printed, _ = clouds.run("install.sh", "--dry-run", "--with-python", "tpu")
    assert printed.splitlines()[:2] == ["python3 -m pip install --quiet --user uv", "uv python install 3.12"]
    assert "uv" not in clouds.run("install.sh", "--dry-run", "tpu")[1]


def test_the_own_error_of_an_unsuitable_python_is_shown(clouds):
    shim = "pyenv: {name}: command not found\nThe command exists in these Python versions:\n  3.11.9"
    names = ("python3.11", "python3.12", "python3.13", "python3", "python")
    for name in names:
        clouds.program(f"bin/{name}", f"#!/usr/bin/env bash\necho '{shim.format(name=name)}' >&2\nexit 127\n")
    clouds.environment["PYTHON"] = "python3.12"
    for arguments in ([], ["--with-python"]):
        code, _, errors = clouds.run("install.sh", *arguments)
        assert (code, errors.count("pyenv: ")) == (1, 1)
        assert errors.startswith("error: PYTHON=python3.12 is not")
        assert errors.endswith(f"{shim.format(name='python3.12')}\n")
    del clouds.environment["PYTHON"]
    code, _, errors = clouds.run("install.sh")
    assert code == 1
    assert [f"{name}: {shim.format(name=name)}" in errors for name in names] == [True] * len(names)


def test_a_missing_program_is_named(clouds):
    for name in ("gcloud", "sky"):
        (clouds.fake / "bin" / name).unlink()
    for script, arguments, name in (("tpu_vm.sh", TPU, "gcloud"), ("sky.sh", SKY, "sky")):
        if shutil.which(name):
            continue
        code, _, errors = clouds.run(script, *arguments, "--", *LOCAL)
        assert (code, errors.startswith(f"error: {name} was not found; ")) == (2, True)
