"""A real SLURM cluster on this machine, in a temporary directory, always ended by its pid files.

Needs Debian's packages slurm-wlm and munge and the right to be root: slurmd starts jobs as their users.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "scontrol", "squeue", "scancel")

# It does not use the machine's own SLURM set-up.
_CONFIG = """
ClusterName=local
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmdPort={ports[1]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
MpiDefault=none
MailProg=/bin/true
StateSaveLocation={folder}/state
SlurmdParameters=config_overrides
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=1,batch_sched_delay=0
JobRequeue=1
KillWait=30
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Return why no cluster can be started here; empty if one can."""
    missing = [program for program in PROGRAMS if not _path(program)]
    if missing:
        return f"{', '.join(missing)} not found: apt-get install slurm-wlm munge"
    return "" if os.geteuid() == 0 else "slurmd has to be started by root"


@pytest.fixture(scope="session")
def slurm(shared_cache: Path) -> Iterator["LocalSlurm"]:
    """A cluster of one node with 4 nominal CPUs; skips if none can be started."""
    if reason := why_not():
        pytest.skip(reason)
    with local_slurm(cpus=4) as cluster:
        cluster.environment.update(VIRTUAL_ENV=sys.prefix, JAX_PLATFORMS="cpu", NPROC="1", OMP_NUM_THREADS="1")
        yield cluster


class LocalSlurm:
    """A running cluster; every SLURM command uses its configuration."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}

    def run(self, *command: str, **options) -> str:
        """Run a command and return its stdout. Raises RuntimeError with its stderr if it fails."""
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=60, **options)
        if done.returncode:
            raise RuntimeError(f"{command} exited with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def field(self, job: str, name: str) -> str:
        """Return a field of `scontrol show job`, for example JobState of 3_1."""
        shown = self.run("scontrol", "--oneliner", "show", "job", job)
        return next(word.partition("=")[2] for word in shown.split() if word.startswith(f"{name}="))

    def wait(self, what: str, condition: Callable[[], bool], seconds: float = 120) -> None:
        """Poll until a condition is true. Raises AssertionError with `what` and the logs of the daemons."""
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                logs = "".join((self.folder / f"{name}.log").read_text()[-3000:] for name in ("slurmctld", "slurmd"))
                raise AssertionError(f"{what}: not within {seconds} s\n{self.run('squeue', '--all')}\n{logs}")
            time.sleep(0.1)

    def start_soon(self, job: str) -> None:
        """Start a requeued job in three seconds instead of two minutes.

        Not immediately: slurmd rejects a job that it killed within the same second, and SLURM then waits again.
        """
        self.wait(f"{job} back in the queue", lambda: self.field(job, "JobState") == "PENDING")
        self.run("scontrol", "update", f"JobId={job}", "StartTime=now+3")


@contextlib.contextmanager
def local_slurm(cpus: int = 4) -> Iterator[LocalSlurm]:
    """Start munged, slurmctld and slurmd with their own ports, key and state, and end them.

    `cpus`: number of one-CPU jobs that run in parallel, which may exceed the CPUs of the machine.
    """
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: names of sockets have at most 107 bytes
    slurm = LocalSlurm(folder)
    try:
        _start_munge(folder)
        settings = {"host": socket.gethostname().partition(".")[0], "folder": folder, "cpus": cpus}
        (folder / "slurm.conf").write_text(_CONFIG.format(ports=_free_ports(2), **settings))
        (folder / "state").mkdir()
        (folder / "spool").mkdir()
        slurm.run(_path("slurmctld"), "-f", str(folder / "slurm.conf"))
        slurm.run(_path("slurmd"), "-f", str(folder / "slurm.conf"))
        slurm.wait("an idle node", lambda: "idle" in slurm.run("sinfo", "--noheader", "--format=%t"), 30)
        yield slurm
    finally:
        with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired, AssertionError):
            slurm.run("scancel", "--user=root", "--signal=KILL", "--full")  # otherwise they have KillWait seconds
            slurm.run("scancel", "--user=root")
            slurm.wait("an empty queue", lambda: not slurm.run("squeue", "--noheader"), 40)
        for name in ("slurmd", "slurmctld", "munged"):
            _end(folder / f"{name}.pid")
        shutil.rmtree(folder, ignore_errors=True)


def _start_munge(folder: Path) -> None:
    folder.chmod(0o755)
    key = folder / "munge.key"
    key.write_bytes(os.urandom(128))
    key.chmod(0o600)
    files = {"key-file": key, "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log"}
    options = [f"--{option}={folder / name}" for option, name in {**files, "seed-file": "munged.seed"}.items()]
    # --force: the directory is in /tmp, which is writable for others.
    subprocess.run([_path("munged"), "--force", *options], check=True, capture_output=True, timeout=60)


def _end(pid_file: Path) -> None:
    """Send SIGTERM to a daemon, and SIGKILL after ten seconds."""
    if not pid_file.exists():
        return
    pid = int(pid_file.read_text())
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGTERM)
        for _ in range(100):
            time.sleep(0.1)
            os.kill(pid, 0)
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def _path(program: str) -> str:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin") or ""
