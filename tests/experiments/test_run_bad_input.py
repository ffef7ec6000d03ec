"""Errors of configs, data and directories are raised before training, name the field or file, and lose nothing."""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.training import TokenizerPreparation, prepare_tokenizer
from finetune_scaling.errors import (
    CheckpointError,
    ConfigError,
    DataError,
    InUseError,
    TrainingError,
    UserError,
    WorkdirError,
)
from finetune_scaling.evaluation.task_evaluation import check_evaluator_splits
from finetune_scaling.experiments import run as experiment
from finetune_scaling.experiments.run import run
from finetune_scaling.runs.checkpoints import checkpoint_steps, read_checkpoint
from finetune_scaling.runs.evaluators import preset
from finetune_scaling.runs.model_loading import find_run, load_run_checkpoint
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_data import check_task_data
from finetune_scaling.runs.run_directory import RunDirectory, lock_directory
from finetune_scaling.training.step import all_finite

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Orbax, about damaged files


@pytest.fixture(scope="module")
def finished(tiny_runs, tmp_path_factory) -> Path:
    """A finished LoRA run that tests must not change."""
    directory = tmp_path_factory.mktemp("finished")
    run(tiny_runs.config("lora"), directory)
    return directory


@pytest.fixture(scope="module")
def other_base(tiny_runs, tmp_path_factory) -> Path:
    """A base model that differs from the shared one in its seed."""
    directory = tmp_path_factory.mktemp("other_base")
    run(tiny_runs.config("pretrain", seeds={"parameters": 1}), directory)
    return directory


@pytest.fixture(scope="module")
def other_tokenizer(tiny_runs, tmp_path_factory) -> Path:
    """A tokenizer of the same size as the shared one, trained on other lines."""
    config = tiny_runs.config("pretrain")
    settings = json.loads((tiny_runs.tokenizer / "tokenizer.json").read_text())["config"] | {"model_type": "bpe"}
    preparation = {"tokenizer": settings, "corpus": config["corpus"]}
    directory = tmp_path_factory.mktemp("other_tokenizer")
    prepare_tokenizer(configuration.build(TokenizerPreparation, preparation, "tokenizer"), directory)
    return directory


@pytest.mark.parametrize(
    ("what", "changes", "kind", "message"),
    [
        ("full", {"batch": {"size": "8"}}, ConfigError, "config.batch.size = '8' has the wrong type: expected int"),
        ("lora", {"method": {"rnk": 2}}, ConfigError, "method.rnk is not a field of method; did you mean 'rank'"),
        ("pretrain", {"model": {"name": "31k"}}, ConfigError, "model.name = '31k' is unknown; did you mean '30k'"),
        ("full", {"finetune_examples": 61}, DataError, "finetune_examples = 61, but the data has 60"),
        ("prompt", {"method": {"length": 33}}, ConfigError, "65 tokens with a soft prompt of 33, more than.*= 64"),
        ("full", {"tokenizer": "/nowhere"}, DataError, "/nowhere: no such tokenizer; .*FILE.py:METHOD"),
        ("full", {"base": {"run": "/nowhere"}}, CheckpointError, "/nowhere: not the directory of a run"),
        ("full", {"base": {"step": 7}}, CheckpointError, r"no checkpoint of step 7"),
        ("full", {"model": {"layers": 2}}, CheckpointError, "model.layers differs from the base's"),
        ("full", {"task": {"template": {"input": "{sorce}"}}}, UserError, "sorce"),
        ("pretrain", {"checkpoint": {"keep_tokens": (10**6,)}}, ConfigError, "keep_tokens = .* must be between"),
        ("full", {"logging": {"writers": ("tensorbord",)}}, ConfigError, "did you mean 'tensorboard'"),
        ("full", {"schedule": {"learning_rate": -1.0}}, ConfigError, "schedule.learning_rate = -1.0 must be positive"),
        ("full", {"sequence": {"max_target_tokens": 32}}, ConfigError, "leaves no token for the input"),
    ],
)
def test_config_errors_name_the_field(what, changes, kind, message, tiny_runs, tmp_path):
    with pytest.raises(kind, match=message):
        run(tiny_runs.config(what, **changes), tmp_path / "run")
    assert list(checkpoint_steps(tmp_path / "run")) == []


@pytest.mark.parametrize(
    ("what", "changes", "kind", "message"),
    [
        ("full", {"schedule": {"warmup_steps": 13}}, ConfigError, r"warmup_steps = 13 .* 12 steps"),
        ("full", {"checkpoint": {"keep_tokens": (10**6,)}}, ConfigError, "keep_tokens = .* must be between"),
        ("full", {"logging": {"writers": ("tensorbord",)}}, ConfigError, "did you mean 'tensorboard'"),
        ("full", {"sharding": {"fsdp": 2}}, ConfigError, "does not divide the 1 devices"),
        (
            "lora", {"optimizer": {"learning_rate_multipliers": ((".*bias", 2.0),)}}, ConfigError,
            r"multiplier '.\*bias' matches no trainable parameter",
        ),
        ("full", {"model": {"attention": "cudnn"}}, ConfigError, "needs a GPU"),
        (
            "full", {"evaluation": {"generate_examples": 1, "decoding": {"max_new_tokens": 45}}}, ConfigError,
            "max_new_tokens = 45 after prompts of up to 20 tokens: 65 tokens",
        ),
        (
            "full", {"evaluation": {"evaluators": {"few_shot_5": {"examples": 2, "generate": 0}}}}, ConfigError,
            "evaluator few_shot_5: .* more than the model's context",
        ),
        (
            "full", {"evaluation": {"evaluators": {"dev": {"generate": 1, "decoding": {"max_new_tokens": 45}}}}},
            ConfigError, "evaluator dev: decoding.max_new_tokens = 45",
        ),
    ],
)  # fmt: skip
def test_errors_come_before_data_is_encoded_and_parameters_are_read(
    what, changes, kind, message, tiny_runs, tmp_path, monkeypatch
):
    for name in ("prepare_run_data", "unloaded_model"):
        monkeypatch.setattr(experiment, name, lambda *_: pytest.fail("work before all checks"))
    with pytest.raises(kind, match=message):
        run(tiny_runs.config(what, **changes), tmp_path / "run")


def test_a_read_only_base_that_has_to_keep_scores_is_an_error_before_training(tiny_runs, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: not Path(path).is_relative_to(tiny_runs.base))
    monkeypatch.setattr(experiment, "prepare_run_data", lambda *_: pytest.fail("work before all checks"))
    config = tiny_runs.config("full", evaluation={"evaluators": {"dev": {"generate": 0}}})
    with pytest.raises(WorkdirError, match=r"base/evaluation: cannot be written; score without the untuned base"):
        run(config, tmp_path / "run")


def test_a_base_with_another_tokenizer_is_an_error_before_data_is_encoded(
    tiny_runs, other_tokenizer, tmp_path, monkeypatch
):
    monkeypatch.setattr(experiment, "prepare_run_data", lambda *_: pytest.fail("work before all checks"))
    with pytest.raises(CheckpointError, match="was pretrained with another tokenizer"):
        run(tiny_runs.config("full", tokenizer=str(other_tokenizer)), tmp_path / "run")


def test_rows_of_an_evaluator_and_a_test_set_in_one_file_are_an_error_before_training(tiny_runs, tmp_path):
    config = tiny_runs.config("full", evaluation={"evaluators": {"dev": {"generate": 0}}})
    config["task"]["test"]["dev.dev"] = config["task"]["dev"]
    with pytest.raises(ConfigError, match=r"evaluator dev: its rows and those of the test set 'dev.dev' are one file"):
        run(config, tmp_path / "run")


def test_a_task_that_cannot_be_scored_is_not_trained(tiny_runs, tmp_path):
    missing = {"source": {"kind": "files", "path": str(tmp_path / "none.jsonl")}, "source_field": "source"}
    parts = [{**missing, "target_field": "target", "source_language": "A", "target_language": "B"}]
    for test, kind, message in (
        ({}, ConfigError, "task tiny has no test set"),
        ({"test": parts}, DataError, r"none.jsonl cannot be read .*No such file"),
    ):
        config = tiny_runs.config("full")
        config["task"]["test"] = test
        with pytest.raises(kind, match=message):
            run(config, tmp_path / "run")
        assert list(checkpoint_steps(tmp_path / "run")) == []


def test_test_examples_without_reference_raise_before_training(tiny_runs, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"source": "sili", "target": "bubo"}\n{"source": "sati", "target": " "}\n')
    found = {"source": {"kind": "files", "path": str(tmp_path / "test.jsonl")}, "source_field": "source"}
    config = tiny_runs.config("full", evaluation={"generate_examples": 2})
    config["task"]["test"] = {
        "test": [{**found, "target_field": "target", "source_language": "A", "target_language": "B"}]
    }
    with pytest.raises(DataError, match=r"test\.jsonl, line 2: field 'target' is empty"):
        run(config, tmp_path / "run")
    assert list(checkpoint_steps(tmp_path / "run")) == []
    run_config = read_run_config(config)
    with pytest.raises(DataError, match=r"test\.jsonl, line 2: field 'target' is empty"):
        check_evaluator_splits(preset("test"), run_config)
    config["task"]["sources"] = {"on_empty": "drop"}
    check_task_data(read_run_config(config))


def test_a_base_with_another_tokenizer_raises(tiny_runs, other_tokenizer, tmp_path):
    with pytest.raises(CheckpointError, match=r"was pretrained with another tokenizer"):
        run(tiny_runs.config("lora", tokenizer=str(other_tokenizer)), tmp_path)


def test_a_run_without_complete_model_is_not_a_base(tiny_runs, finished, tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoints/\d+: .* lora trained, not a complete model"):
        run(tiny_runs.config("lora", base={"run": str(finished)}), tmp_path)


def test_a_base_that_was_retrained_after_finetuning_raises(tiny_runs, finished, other_base, tmp_path):
    moved = Path(shutil.copytree(tiny_runs.base, tmp_path / "base"))
    config = tiny_runs.config("lora", base={"run": str(moved)})
    directory = Path(shutil.copytree(finished, tmp_path / "run"))
    RunDirectory(directory).write_config(config)  # a base may move
    load_run_checkpoint(find_run(directory))
    shutil.rmtree(moved)
    shutil.copytree(other_base, moved)
    with pytest.raises(CheckpointError, match=r"was trained on another base \(digest .*restore the right base"):
        load_run_checkpoint(find_run(directory))
    (directory / "result.json").unlink()
    with pytest.raises(CheckpointError, match="was trained on another base"):
        run(config, directory)  # resuming would mix two base models


def test_the_directory_of_another_config_raises(tiny_runs, finished):
    config = tiny_runs.config("lora", schedule={"learning_rate": 0.5}, method={"rank": 3})
    with pytest.raises(WorkdirError, match=r"another config \(they differ in method.rank, schedule.learning_rate\)"):
        run(config, finished)
    assert RunDirectory(finished).config == tiny_runs.config("lora")


def test_checkpoints_of_another_method_or_shape(tiny_runs, unfinished):
    for what, changes in (("full", {}), ("lora", {"method": {"rank": 1}})):
        config = tiny_runs.config(what, **changes)
        (unfinished / "config.json").write_text(json.dumps(config))
        with pytest.raises(CheckpointError, match="belongs to another model"):
            run(config, unfinished)
        with pytest.raises(CheckpointError, match="other shapes"):
            load_run_checkpoint(find_run(unfinished))
    assert list(checkpoint_steps(unfinished))


def test_two_processes_in_one_directory(tiny_runs, unfinished):
    with lock_directory(unfinished), pytest.raises(InUseError, match="another process is working here"):
        run(tiny_runs.config("lora"), unfinished)


def test_resuming_after_damage_to_the_newest_checkpoint_is_exact(tiny_runs, finished, unfinished, caplog):
    newest = next(checkpoint_steps(unfinished))
    _truncate(unfinished / "checkpoints" / str(newest))
    older = _add_older_checkpoint(tiny_runs, unfinished)
    with caplog.at_level(logging.INFO, logger="finetune_scaling"):
        record = run(tiny_runs.config("lora"), unfinished)
    assert f"checkpoints/{newest}: damaged" in caplog.text
    assert f"resuming from step {older}" in caplog.text
    expected = RunDirectory(finished).result
    assert {**record, "seconds": 0} == {**expected, "seconds": 0}


def test_a_refused_resume_leaves_the_records_of_the_run(tiny_runs, unfinished):
    for step in checkpoint_steps(unfinished):
        _truncate(unfinished / "checkpoints" / str(step))
    (unfinished / "environment.json").write_text('{"of": "the earlier process"}')
    with pytest.raises(CheckpointError, match="all checkpoints"):
        run(tiny_runs.config("lora"), unfinished)
    assert (unfinished / "environment.json").read_text() == '{"of": "the earlier process"}'


def test_a_damaged_base_raises(tiny_runs, tmp_path):
    base = Path(shutil.copytree(tiny_runs.base, tmp_path / "base"))
    _truncate(base / "checkpoints" / "20")
    with pytest.raises(CheckpointError, match=r"base/checkpoints/20: damaged.*restore an intact copy"):
        run(tiny_runs.config("lora", base={"run": str(base)}), tmp_path / "run")


def test_a_damaged_run_is_not_scored(tiny_runs, finished, tmp_path):
    directory = Path(shutil.copytree(finished, tmp_path / "run"))
    for step in checkpoint_steps(directory):
        _truncate(directory / "checkpoints" / str(step))
    with pytest.raises(CheckpointError, match=r"checkpoints/\d+: damaged.*restore an intact copy"):
        load_run_checkpoint(find_run(directory))


def test_a_non_finite_loss_stops_the_run_and_only_finite_states_are_saved(tiny_runs, tmp_path):
    config = tiny_runs.config(
        "full", schedule={"learning_rate": 1e37}, optimizer={"name": "adamw"}, checkpoint={"every_steps": 1}
    )
    with pytest.raises(TrainingError, match=r"step \d+ \(learning rate \S*e\+3\d\): lower schedule.learning_rate"):
        run(config, tmp_path)
    for step in checkpoint_steps(tmp_path):
        assert all_finite(read_checkpoint(tmp_path / "checkpoints" / str(step))[0])
    assert RunDirectory(tmp_path).result is None


def test_a_read_only_directory_raises(tiny_runs):
    config = tiny_runs.config("full")
    with _read_only_directory() as locked:
        for directory in (locked, locked / "below"):
            with pytest.raises(WorkdirError, match=rf"{directory}: cannot be written"):
                run(config, directory)


def test_a_full_disk_while_writing_metrics_raises(tiny_runs, tmp_path, monkeypatch, full_device):
    monkeypatch.setattr(RunDirectory, "rewind_metrics", lambda *_: None)
    (tmp_path / "metrics.jsonl").symlink_to(full_device)
    config = tiny_runs.config("full")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(WorkdirError, match=r"metrics.jsonl: the disk is full; free some space"):
        run(config, tmp_path)


@contextmanager
def _read_only_directory() -> Iterator[Path]:
    """A read-only directory; root, who may write anywhere, becomes another user."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o555)
        user = os.geteuid()
        if user == 0:
            os.seteuid(65534)
        try:
            yield Path(folder)
        finally:
            os.seteuid(user)
            os.chmod(folder, 0o755)


def _truncate(checkpoint: Path) -> None:
    for path in (checkpoint / "state").rglob("*"):
        if path.is_file():
            os.truncate(path, path.stat().st_size // 2)


def _add_older_checkpoint(tiny_runs, directory: Path) -> int:
    """Add an intact checkpoint of an earlier step; return its step."""
    shorter = directory.with_name("shorter")
    run(tiny_runs.config("lora", checkpoint={"keep_tokens": (4 * 8 * 32,)}), shorter)
    source = shorter / "checkpoints" / "4"
    shutil.copytree(source, directory / "checkpoints" / "4", dirs_exist_ok=True)
    for step in list(checkpoint_steps(directory))[1:]:
        if step > 4:
            shutil.rmtree(directory / "checkpoints" / str(step))
    return 4
