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


def test_a_plus_marks_a_checkout_with_changed_or_untracked_files(tmp_path, monkeypatch):
    def git(*command):
        subprocess.run(["git", "-c", "user.name=n", "-c", "user.email=e", *command], cwd=tmp_path, check=True)

    package = tmp_path / "__init__.py"
    package.touch()
    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "--message=one")
    monkeypatch.setattr(record.finetune_scaling, "__file__", str(package))
    clean = record._git_commit()
    assert len(clean) == 40
    module = tmp_path / "new_method.py"
    module.touch()
    assert record._git_commit() == clean + "+"
    module.unlink()
    package.write_text("changed = True\n")
    assert record._git_commit() == clean + "+"
