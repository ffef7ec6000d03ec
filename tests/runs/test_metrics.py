"""Metrics: JSON lines, further writers by name, progress on terminals and in logs."""

import importlib.util
import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_scaling.errors import ConfigError, WorkdirError
from finetune_scaling.runs.metrics import Metrics, ProgressReporter


def test_every_write_appends_a_line_immediately(tmp_path):
    metrics = Metrics(tmp_path)
    metrics.write(1, loss=0.1 + 0.2, learning_rate=1e-3)
    metrics.write(2, dev_loss=1.0)
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()  # not closed: a kill loses nothing
    assert [json.loads(line) for line in lines] == [
        {"step": 1, "loss": 0.1 + 0.2, "learning_rate": 1e-3},
        {"step": 2, "dev_loss": 1.0},
    ]
    metrics.close()


def test_lines_are_appended_to_those_of_an_earlier_process(tmp_path):
    for step in (1, 2):
        metrics = Metrics(tmp_path)
        metrics.write(step, loss=1.0)
        metrics.close()
    assert (tmp_path / "metrics.jsonl").read_text().count("\n") == 2


def test_a_full_disk_raises(tmp_path, full_device):
    (tmp_path / "metrics.jsonl").symlink_to(full_device)
    metrics = Metrics(tmp_path)
    with pytest.raises(WorkdirError, match=r"metrics.jsonl: the disk is full"):
        metrics.write(1, loss=1.0)


def test_an_unknown_writer_raises(tmp_path):
    with pytest.raises(ConfigError, match=r"logging.writers = 'tensorbord' is unknown; did you mean 'tensorboard'"):
        Metrics(tmp_path, ["tensorbord"])


@pytest.mark.parametrize(("name", "module"), [("tensorboard", "tensorboardX"), ("wandb", "wandb")])
def test_a_writer_that_is_not_installed_raises_with_the_pip_command(name, module, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ConfigError, match=rf"names {name}, which is not installed.*pip install .*\[logging\]"):
        Metrics(tmp_path, [name])


@pytest.mark.skipif(importlib.util.find_spec("tensorboardX") is None, reason="needs the extra [logging]")
def test_tensorboard_has_the_same_values(tmp_path):
    metrics = Metrics(tmp_path, ["tensorboard"])
    metrics.write(3, loss=1.5)
    metrics.close()
    assert list((tmp_path / "tensorboard").glob("events*"))
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {"step": 3, "loss": 1.5}


@pytest.fixture
def wandb(monkeypatch) -> list[dict[str, Any]]:
    """The arguments of each call of wandb.init."""
    started: list[dict[str, Any]] = []

    def init(**given: Any) -> SimpleNamespace:
        started.append(given)
        return SimpleNamespace(log=lambda values, step: None, finish=lambda: None)

    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(init=init))
    return started


def start(directory: Path, writer: str, config: str = "{}", step: int = 0) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "config.json").write_text(config)
    metrics = Metrics(directory, [writer], step)
    metrics.write(step + 1, loss=1.0)
    metrics.close()


def test_wandb_ids_differ_for_directories_of_the_same_name(wandb, tmp_path, monkeypatch):
    name = "s100k_full_n400_seed0"
    start(tmp_path / "translation" / name, "wandb")
    start(tmp_path / "summarization" / name, "wandb")
    start(tmp_path / "translation" / name, "wandb", '{"seed": 1}')
    start(tmp_path / "translation" / name, "wandb", step=5)  # the first one resumed
    monkeypatch.chdir(tmp_path / "translation")
    start(Path(name), "wandb", step=7)
    first, elsewhere, other, resumed, relative = (given["id"] for given in wandb)
    assert len({first, elsewhere, other}) == 3
    assert first == resumed == relative
    assert all(given["name"] == name and given["resume"] == "allow" for given in wandb)
    assert first.isalnum()
    assert len(first) <= 64  # W&B's limit of ids


def test_tensorboard_hides_later_steps_of_a_killed_process(tmp_path, monkeypatch):
    given = []

    class SummaryWriter:
        def __init__(self, directory: str, purge_step: int | None = None):
            given.append((directory, purge_step))

        def add_scalar(self, name: str, value: float, step: int) -> None:
            given.append((name, step))

        def close(self) -> None:
            pass

    monkeypatch.setitem(sys.modules, "tensorboardX", SimpleNamespace(SummaryWriter=SummaryWriter))
    start(tmp_path, "tensorboard", step=5)
    assert given == [(str(tmp_path / "tensorboard"), 6), ("loss", 6)]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("finetune_scaling.runs.metrics.time.monotonic", lambda: now[0])
    return now


def test_a_log_has_a_line_per_interval(clock, caplog):
    with caplog.at_level(logging.INFO, logger="finetune_scaling"):
        progress = ProgressReporter("toy", start=100, total=400, every_seconds=30)
        for second in range(1, 61):
            clock[0] = float(second)
            progress.update(100 + 2 * second, loss=1.23456)
        progress.close()
    assert [record.message for record in caplog.records] == [
        "toy: step 160/400, 2.0 steps/s, 0:02:00 left, loss 1.235",
        "toy: step 220/400, 2.0 steps/s, 0:01:30 left, loss 1.235",
    ]


def test_a_terminal_has_one_line_that_is_rewritten_and_cleared(clock, monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    progress = ProgressReporter("toy", start=0, total=10)
    clock[0] = 1.0
    progress.update(1, loss=2.0)
    progress.update(2, loss=2.0)  # before the interval has passed
    clock[0] = 2.0
    progress.update(4, loss=2.0)
    progress.close()
    written = capsys.readouterr().err
    assert "\n" not in written
    assert written.split("\r\x1b[K")[1:] == [
        "toy: step 1/10, 1.0 steps/s, 0:00:09 left, loss 2",
        "toy: step 4/10, 2.0 steps/s, 0:00:03 left, loss 2",
        "",
    ]


def test_the_remaining_time_is_unknown_before_the_first_step(clock, caplog):
    with caplog.at_level(logging.INFO, logger="finetune_scaling"):
        progress = ProgressReporter("toy", start=5, total=10)
        clock[0] = 31.0
        progress.update(5)
    assert "0.0 steps/s, ? left" in caplog.text
