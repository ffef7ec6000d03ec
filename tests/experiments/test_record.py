"""Environment of a run: failures of git do not fail a run."""

import subprocess

import pytest

from finetune_scaling.experiments import record


@pytest.mark.parametrize(
    "error",
    [
        subprocess.TimeoutExpired("git", 20),  # a checkout on a network file system may be that slow
        subprocess.CalledProcessError(128, "git"),
        FileNotFoundError("git"),
    ],
)
def test_the_commit_is_none_if_git_fails(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert record._git_commit() is None
