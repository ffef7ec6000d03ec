"""What a run ran on: told where it can be, and no reason for a run to end where it cannot."""

import subprocess

import pytest

from finetune_scaling.runs import environment


@pytest.mark.parametrize(
    "error",
    [
        subprocess.TimeoutExpired("git", 20),  # a checkout on a network's disk may be that slow
        subprocess.CalledProcessError(128, "git"),
        FileNotFoundError("git"),
    ],
)
def test_without_an_answer_of_git_there_is_no_commit_and_no_error(error, monkeypatch):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert environment._git_commit() is None
