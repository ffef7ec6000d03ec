"""Runs end to end: a resumed run equals an uninterrupted one to the bit, whatever interrupted it."""

import gc
import json
import os
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from finetune_scaling import errors
from finetune_scaling.experiments import loop
from finetune_scaling.experiments import run as run_module
from finetune_scaling.experiments.run import run
from finetune_scaling.planning.layout import Layout, resident_bytes
from finetune_scaling.planning.workload import planned_model, read_workload
from finetune_scaling.runs import model_loading
from finetune_scaling.runs.checkpoints import Checkpoints, checkpoint_steps, read_checkpoint
from finetune_scaling.runs.digest import digest
from finetune_scaling.runs.metrics import MEASURED
from finetune_scaling.runs.model_loading import find_run, load_base, load_run_checkpoint
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.training import optimizers
from finetune_scaling.training.compilations import compiled_programs
from finetune_scaling.training.step import State
from finetune_scaling.tuning.registry import METHODS


class Killed(BaseException):
    """Simulates the death of the process in the middle of a run."""


@pytest.fixture
def at_step(monkeypatch) -> Callable[[int, Callable[[], Any]], None]:
    """at_step(k, act): call act() once, before step k + 1."""

    def plan(step: int, act: Callable[[], Any]) -> None:
        waiting = [step]

        def learning_rate(config, at, total):
            if waiting and at >= waiting[0]:
                waiting.pop()
                act()
            return optimizers.learning_rate(config, at, total)

        monkeypatch.setattr(loop, "learning_rate", learning_rate)

    return plan


def kill() -> None:
    raise Killed


def outcome(directory: Path) -> dict[str, Any]:
    """All outputs of a run except times."""
    newest = next(checkpoint_steps(directory))
    tree, metadata = read_checkpoint(directory / "checkpoints" / str(newest))
    return {
        "arrays": digest(tree),  # trainable parameters and optimizer state
        "position": {k: v for k, v in metadata["position"].items() if k != "seconds"},
        "metrics": [
            {name: value for name, value in line.items() if name not in MEASURED}
            for line in RunDirectory(directory).metrics()
        ],
        "record": {k: v for k, v in RunDirectory(directory).result.items() if k != "seconds"},
        "rows": (directory / "evaluation" / "test.jsonl").read_text(),
    }


@pytest.fixture(scope="module")
def uninterrupted(tiny_runs, tmp_path_factory) -> Callable[[str], dict[str, Any]]:
    """The outcome of a method's uninterrupted run."""
    outcomes: dict[str, dict[str, Any]] = {}

    def get(method: str) -> dict[str, Any]:
        if method not in outcomes:
            directory = tmp_path_factory.mktemp(method)
            run(tiny_runs.config(method), directory)
            outcomes[method] = outcome(directory)
        return outcomes[method]

    return get


@pytest.mark.slow
@pytest.mark.usefixtures("example_method")  # gain, of docs/methods.md
@pytest.mark.parametrize("method", [*METHODS, "gain"])
def test_a_killed_run_equals_an_uninterrupted_one(method, tiny_runs, uninterrupted, at_step, tmp_path):
    """Full tuning is killed three times, the others, which differ only in their parameters, once."""
    expected, rng = uninterrupted(method), random.Random(method)
    for step in sorted(rng.sample(range(12), 3)) if method == "full" else [rng.randrange(6, 12)]:
        at_step(step, kill)
        with pytest.raises(Killed):
            run(tiny_runs.config(method), tmp_path)
    assert any(checkpoint_steps(tmp_path)), "the last run starts from a checkpoint"
    run(tiny_runs.config(method), tmp_path)
    assert outcome(tmp_path) == expected


@pytest.fixture
def live_bytes(monkeypatch) -> dict[str, list[int]]:
    """Bytes of all arrays on devices that runs made, without batches, at each call of these functions."""
    model_loading._kept_base.cache_clear()
    gc.collect()
    earlier = jax.live_arrays()
    ids = {id(array) for array in earlier}
    found: dict[str, list[int]] = {}

    def measure(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def measured(*args: Any, **options: Any) -> Any:
            gc.collect()
            arrays = [a for a in jax.live_arrays() if id(a) not in ids and a.shape != (8, 32)]
            found.setdefault(name, []).append(sum(array.nbytes for array in arrays))
            return original(*args, **options)

        monkeypatch.setattr(owner, name, measured)

    def save_copy(self: Checkpoints, step: int, state: State, metadata: dict[str, Any]) -> None:
        save(self, step, jax.tree.map(np.array, state), metadata)  # on CPUs, writers keep the arrays themselves

    save = Checkpoints.save
    monkeypatch.setattr(Checkpoints, "save", save_copy)
    measure(loop.TrainingLoop, "run")  # the start
    measure(loop.TrainingLoop, "_report_if_due")  # after each step
    measure(loop.TrainingProgress, "add_evaluation")
    measure(run_module, "score_split")
    yield found
    del earlier  # until here no other array could have one of these ids


@pytest.mark.parametrize(
    ("method", "compute_dtype"),
    [*((method, "float32") for method in METHODS), ("full", "bfloat16"), ("lora", "bfloat16")],
)
def test_arrays_on_devices_are_those_of_the_plan_once_each(method, compute_dtype, tiny_runs, tmp_path, live_bytes):
    """At the start, after steps and evaluations, in scoring, and at the start and in scoring of a resumed run."""
    changes = {"limits": {"max_steps": 2}, "evaluation": {"every_steps": 2}}
    config = tiny_runs.config(method, model={"compute_dtype": compute_dtype}, **changes)
    run_config = read_run_config(config)
    plan = resident_bytes(read_workload(run_config, planned_model(run_config)), Layout(1, 1, 1))
    parameters = plan.trainable + plan.frozen
    run(config, tmp_path)
    (tmp_path / "result.json").unlink()
    model_loading._kept_base.cache_clear()
    run(config, tmp_path)
    assert {name: len(found) for name, found in live_bytes.items()} == {
        "run": 2, "_report_if_due": 2, "add_evaluation": 1, "score_split": 2
    }  # fmt: skip
    for found in (live_bytes[name] for name in ("run", "_report_if_due", "add_evaluation")):
        assert found == pytest.approx([parameters + plan.optimizer] * len(found), rel=0.02)
    assert live_bytes["score_split"] == pytest.approx([parameters] * 2, rel=0.02)


def test_sigterm_saves_the_current_step_and_the_resumed_run_is_equal(tiny_runs, uninterrupted, at_step, tmp_path):
    before = signal.getsignal(signal.SIGTERM)
    at_step(6, lambda: os.kill(os.getpid(), signal.SIGTERM))
    with pytest.raises(errors.Preempted, match="saved step 7 of full"):
        run(tiny_runs.config("full"), tmp_path)
    assert next(checkpoint_steps(tmp_path)) == 7  # not a step of a regular checkpoint
    assert signal.getsignal(signal.SIGTERM) is before
    run(tiny_runs.config("full"), tmp_path)
    assert outcome(tmp_path) == uninterrupted("full")


def test_resume_is_exact_with_packing_accumulation_dropout_and_another_optimizer(tiny_runs, at_step, tmp_path):
    changes = {
        "method": {"name": "dora", "rank": 2, "dropout": 0.2},
        "batch": {"size": 4, "accumulation": 2, "pack": True, "row_length": 48},
        "optimizer": {"name": "adamw", "weight_decay": 0.01},
        "schedule": {"name": "wsd", "warmup_steps": 3},
    }
    config = tiny_runs.config("lora", **changes)
    run(config, tmp_path / "uninterrupted")
    at_step(8, kill)
    with pytest.raises(Killed):
        run(config, tmp_path / "killed")
    run(config, tmp_path / "killed")
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "uninterrupted")


def test_tokens_of_packed_rows_are_counted_by_the_row(tiny_runs, tmp_path):
    config = tiny_runs.config(
        "lora", batch={"size": 4, "pack": True, "row_length": 48}, limits={"max_steps": None, "max_tokens": 5 * 4 * 48}
    )
    record = run(config, tmp_path)
    assert (record["steps"], record["tokens_seen"]) == (5, 5 * 4 * 48)


def test_pretraining_resumes_exactly_and_keeps_the_requested_token_counts(tiny_runs, at_step, tmp_path):
    config = tiny_runs.config("pretrain")
    for step in (3, 15):
        at_step(step, kill)
        with pytest.raises(Killed):
            run(config, tmp_path)
    record = run(config, tmp_path)
    uninterrupted_base = RunDirectory(tiny_runs.base)
    assert [
        {name: value for name, value in line.items() if name not in MEASURED}
        for line in RunDirectory(tmp_path).metrics()
    ] == [
        {name: value for name, value in line.items() if name not in MEASURED} for line in uninterrupted_base.metrics()
    ]
    assert {**record, "seconds": 0} == {**uninterrupted_base.result, "seconds": 0}
    for step in (10, 20):  # tests/tiny.py keeps the tokens of step 10; the last step is always kept
        assert digest(load_base(tmp_path, step).params) == digest(load_base(tiny_runs.base, step).params)
    assert record["stopped_by"] in ("max_steps", "budget")


def test_seconds_include_earlier_processes(tiny_runs, at_step, monkeypatch, tmp_path):
    now = [0.0]
    monkeypatch.setattr(run_module.time, "monotonic", lambda: now[0])

    def end(seconds: float) -> None:
        now[0] += seconds
        os.kill(os.getpid(), signal.SIGTERM)

    for step, seconds in ((4, 100.0), (8, 50.0)):
        at_step(step, lambda seconds=seconds: end(seconds))
        with pytest.raises(errors.Preempted):
            run(tiny_runs.config("full"), tmp_path)
    now[0] += 1000.0  # between two processes
    assert run(tiny_runs.config("full"), tmp_path)["seconds"] == 150.0


def test_a_finished_run_is_returned_and_not_rerun(tiny_runs, monkeypatch, tmp_path):
    config = tiny_runs.config("full")
    first = run(config, tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file() and path.suffix}
    monkeypatch.setattr(run_module, "prepare_run_data", lambda run_config: pytest.fail("the run was started again"))
    assert run(config, tmp_path) == first
    del files[tmp_path / "config.json"]  # its paths are updated
    assert {path: path.stat().st_mtime_ns for path in files} == files


def test_a_run_killed_while_scoring_is_not_trained_again(tiny_runs, uninterrupted, monkeypatch, tmp_path):
    expected = uninterrupted("full")
    with monkeypatch.context() as patch:
        patch.setattr(run_module, "score_split", lambda *_, **__: kill())
        with pytest.raises(Killed):
            run(tiny_runs.config("full"), tmp_path)
    assert RunDirectory(tmp_path).result is None
    monkeypatch.setattr(loop, "learning_rate", lambda *_: pytest.fail("a step was trained again"))
    run(tiny_runs.config("full"), tmp_path)
    assert outcome(tmp_path) == expected


@pytest.mark.slow
def test_examples_seed_learning_rate_and_steps_do_not_recompile(tiny_runs, uninterrupted, tmp_path):
    for method in ("full", "lora", "prompt"):
        uninterrupted(method)
    before = compiled_programs()
    changes = {
        "finetune_examples": 25,
        "seeds": {"data": 1, "parameters": 2, "order": 3},
        "schedule": {"learning_rate": 0.05, "name": "linear", "warmup_steps": 2},
        "limits": {"max_steps": 7},
    }
    for method in ("full", "lora", "prompt"):
        run(tiny_runs.config(method, **changes), tmp_path / method)
    assert compiled_programs() == before


def test_seeds_are_independent(tiny_runs, tmp_path):
    def losses(**seeds: int) -> list[dict[str, Any]]:
        name = "-".join(f"{name}{value}" for name, value in seeds.items()) or "none"
        run(tiny_runs.config("lora", seeds=seeds, limits={"max_steps": 4}), tmp_path / name)
        return [line["loss"] for line in RunDirectory(tmp_path / name).metrics() if "loss" in line]

    runs = [losses(), losses(data=1), losses(parameters=1), losses(order=1)]
    assert len({json.dumps(found) for found in runs}) == 4
    assert losses(data=0, parameters=0, order=0) == runs[0]


def test_a_pet_checkpoint_has_no_frozen_parameters(tiny_runs, tmp_path):
    base_bytes = _bytes(tiny_runs.base / "checkpoints" / "20")
    for method, names in {"lora": ("lora_a", "lora_b"), "prompt": ("prompt.embedding",)}.items():
        record = run(tiny_runs.config(method), tmp_path / method)
        newest = tmp_path / method / "checkpoints" / str(next(checkpoint_steps(tmp_path / method)))
        tree, metadata = read_checkpoint(newest)
        trainable = {name: leaf for name, leaf in tree.items() if name.startswith("trainable.")}
        assert trainable
        assert all(name.endswith(names) for name in trainable)
        assert sum(leaf.size for leaf in trainable.values()) == record["trainable_parameters"]
        assert all(not name.endswith("kernel") and "embedding" not in name.removesuffix(names[0]) for name in tree)
        assert metadata["base_digest"] == load_base(tiny_runs.base).metadata["arrays_digest"]
        assert _bytes(newest) < base_bytes


def test_finetuning_does_not_change_the_base(tiny_runs, tmp_path):
    before = digest(load_base(tiny_runs.base).params)
    run(tiny_runs.config("full"), tmp_path / "full")
    run(tiny_runs.config("lora"), tmp_path / "lora")
    assert digest(load_base(tiny_runs.base).params) == before
    model = load_run_checkpoint(find_run(tmp_path / "lora"))
    frozen = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(model.frozen)}
    for path, leaf in jax.tree_util.tree_leaves_with_path(load_base(tiny_runs.base).params):
        np.testing.assert_array_equal(frozen[jax.tree_util.keystr(path)], leaf)


def test_the_best_checkpoint_is_kept_and_scored(tiny_runs, monkeypatch, tmp_path):
    _script_dev_losses(monkeypatch, [3.0, 2.0, 4.0])
    record = run(tiny_runs.config("full"), tmp_path)
    assert (record["best_step"], record["dev_loss"], record["steps"]) == (8, 2.0, 12)
    assert record["dev_losses"] == {"4": 3.0, "8": 2.0, "12": 4.0}
    assert list(checkpoint_steps(tmp_path)) == [12, 8]
    best, last = (_test_loss(tmp_path, step) for step in (None, 12))
    assert best == record["loss"] != last


def test_the_best_checkpoint_of_an_unfinished_run_is_loaded(tiny_runs, monkeypatch, tmp_path):
    with monkeypatch.context() as patch:
        _script_dev_losses(patch, [3.0, 2.0, 4.0])
        patch.setattr(run_module, "score_split", lambda *_, **__: kill())
        with pytest.raises(Killed):
            run(tiny_runs.config("full"), tmp_path)
    assert list(checkpoint_steps(tmp_path)) == [12, 8]
    best, eighth, last = (digest(load_run_checkpoint(find_run(tmp_path, step)).trainable) for step in (None, 8, 12))
    assert best == eighth != last
    shutil.rmtree(tmp_path / "checkpoints" / "8")
    with pytest.raises(errors.CheckpointError, match=r"no checkpoint of step 8; there are \[12\]"):
        load_run_checkpoint(find_run(tmp_path))


def test_patience_stops_a_run_early(tiny_runs, monkeypatch, tmp_path):
    _script_dev_losses(monkeypatch, [3.0, 4.0, 3.5, 1.0])
    record = run(tiny_runs.config("full", limits={"max_steps": 40, "patience": 2}), tmp_path)
    assert (record["stopped_by"], record["steps"], record["best_step"]) == ("patience", 12, 4)


def test_a_profile_of_some_steps_is_written(tiny_runs, tmp_path):
    run(tiny_runs.config("lora", logging={"profile_steps": (2, 3)}, limits={"max_steps": 4}), tmp_path)
    (trace,) = (tmp_path / "profile").rglob("*.xplane.pb")
    assert trace.stat().st_size > 0
    config = tiny_runs.config("lora", limits={"max_steps": 4})
    assert run(config, tmp_path)["steps"] == 4  # another window is no other run


def test_the_result_record_describes_the_run(tiny_runs, tmp_path):
    record = run(tiny_runs.config("lora", base={"step": 10}), tmp_path)
    assert (record["method"], record["pet_size"], record["task"]) == ("lora", 2, "tiny")
    assert record["pretrain_tokens"] == 10 * 8 * 32
    assert (record["finetune_examples"], record["batch_size"], record["tokens_seen"]) == (40, 8, 12 * 8 * 32)
    assert 0 < record["entropy"] < record["loss"]  # the grammar's entropy is known
    assert record["flops"] > 0
    assert (record["attention"], record["compute_dtype"]) == ("plain", "float32")  # of short rows on a CPU
    environment = json.loads((tmp_path / "environment.json").read_text())
    assert environment["packages"]["jax"] == jax.__version__
    rows = [json.loads(line) for line in (tmp_path / "evaluation" / "test.jsonl").read_text().splitlines()]
    total, tokens = (sum(row[name] for row in rows) for name in ("loss_sum", "tokens"))
    assert record["loss"] == pytest.approx(total / tokens, rel=1e-12)
    assert json.loads((tmp_path / "config.json").read_text()) == tiny_runs.config("lora", base={"step": 10})


def _test_loss(directory: Path, step: int | None) -> float:
    found = find_run(directory, step)
    model, run_config = load_run_checkpoint(found), found.run_config
    data = run_module.prepare_run_data(run_config)
    examples = data.task.examples("test")
    summary, _ = run_module.score_split(model, data.task, data.format, examples, batch_size=20, generate_examples=0)
    return summary["loss"]


def _script_dev_losses(monkeypatch, losses: list[float]) -> None:
    script = iter(losses)

    class Scripted:
        def __init__(self, *_: Any):
            self.mean = next(script)

    monkeypatch.setattr(run_module, "row_losses", Scripted)


def _bytes(directory: Path) -> int:
    return sum(path.stat().st_size for path in directory.rglob("*") if path.is_file())
