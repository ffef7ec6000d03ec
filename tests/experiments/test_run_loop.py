"""The training loop with a toy model: stopping, checkpoints, metrics, and losses that are not finite."""

import dataclasses
import math
import os
import signal
from pathlib import Path
from typing import Any

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.loader import Batches
from finetune_scaling.errors import Preempted, TrainingError
from finetune_scaling.experiments.loop import LoopSettings, TrainingLoop
from finetune_scaling.experiments.profiling import ProfileWindow
from finetune_scaling.experiments.throughput import Throughput
from finetune_scaling.runs.metrics import MEASURED
from finetune_scaling.runs.training_progress import TrainingProgress, progress_from_metadata
from finetune_scaling.training.optimizers import ScheduleConfig
from finetune_scaling.training.step import State, StepMetrics

SETTINGS = LoopSettings(
    total_steps=20,
    limit="max_steps",
    evaluate_every=4,
    log_every=3,
    save_every=7,
    keep_steps=frozenset({5}),
    schedule=ScheduleConfig(0.25, name="constant"),
    patience=None,
    tolerance=0.5,
)


class RecordedCheckpoints:
    """Records the metadata of saved checkpoints."""

    directory = Path("runs/toy/checkpoints")

    def __init__(self):
        self.metadata: dict[int, dict[str, Any]] = {}

    def save(self, step: int, state: State, metadata: dict[str, Any]) -> None:
        assert float(state.trainable["steps"]) == step
        self.metadata[step] = metadata

    def wait(self) -> None:
        pass


class RecordedMetrics:
    """Records written metrics."""

    def __init__(self):
        self.lines: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, **values: float) -> None:
        for name in MEASURED:
            values.pop(name, None)
        self.lines.append((step, values))

    def flush(self) -> None:
        """Do nothing."""


def train_loss(step: int) -> StepMetrics:
    """Sum over step + 1 tokens, and the gradient's norm."""
    return StepMetrics(np.float32(1.5 * step), np.float32(step + 1), np.float32(step / 8))


def make_loop(
    loop_settings: LoopSettings, dev_losses: list[float], step_metrics=train_loss, trainable=lambda step: float(step)
) -> TrainingLoop:
    def step(state, frozen, batch, rate):
        number = int(state.trainable["steps"]) + 1
        return State({"steps": np.float32(trainable(number))}, {}), step_metrics(number)

    batches = Batches(grain.MapDataset.range(1000), lambda key: key, batch_size=1, rows_per_epoch=10, statistics={})
    script = iter(dev_losses)
    return TrainingLoop(
        "toy",
        loop_settings,
        step,
        batches,
        lambda batch: batch,
        {},
        lambda tree: next(script),
        RecordedCheckpoints(),
        RecordedMetrics(),
        {"model": "toy"},
        lambda: 0.0,
        Throughput(tokens_per_step=10, flops_per_step=1e6),
        ProfileWindow(Path()),
    )


def run(loop: TrainingLoop, progress: TrainingProgress | None = None) -> TrainingProgress:
    start = TrainingProgress() if progress is None else progress
    return loop.run(State({"steps": np.float32(start.step)}, {}), start)[1]


def evaluation_steps(loop_settings: LoopSettings) -> list[int]:
    total = loop_settings.total_steps
    return sorted({*range(loop_settings.evaluate_every, total + 1, loop_settings.evaluate_every), total})


@settings(max_examples=40, deadline=None)
@given(
    losses=st.lists(st.integers(0, 12).map(lambda n: n / 4), min_size=20, max_size=20),
    total=st.integers(1, 20),
    every=st.integers(1, 7),
    patience=st.none() | st.integers(1, 3),
)
def test_stopping_rules_and_best_checkpoint(losses, total, every, patience):
    limits = {"total_steps": total, "evaluate_every": every, "patience": patience}
    loop_settings = dataclasses.replace(SETTINGS, keep_steps=frozenset(), **limits)
    loop = make_loop(loop_settings, losses)
    progress = run(loop)

    best, stop, reason = None, total, None
    for number, step in enumerate(evaluation_steps(loop_settings)):
        if best is None or losses[number] < losses[best]:
            best = number
        if patience is not None and number - best >= patience:
            stop, reason = step, "patience"
            break
    count = evaluation_steps(loop_settings).index(stop) + 1
    if reason is None:
        reason = (
            "budget" if count > 1 and losses[count - 2] - losses[count - 1] > loop_settings.tolerance else "max_steps"
        )
    assert (progress.step, progress.stopped_by) == (stop, reason)
    assert (progress.best_step, progress.best_loss) == (evaluation_steps(loop_settings)[best], losses[best])
    assert progress.losses == losses[:count]
    assert {progress.best_step, stop} <= loop.checkpoints.metadata.keys()
    assert all(
        metadata["best_step"] is None or metadata["best_step"] <= step
        for step, metadata in loop.checkpoints.metadata.items()
    )


@pytest.mark.parametrize(("every", "warned"), [(20, True), (10, False)])
def test_a_run_with_one_dev_loss_says_that_it_may_still_fall(every, warned, caplog):
    progress = run(make_loop(dataclasses.replace(SETTINGS, evaluate_every=every), [3.0] * (20 // every)))
    assert progress.stopped_by == "max_steps"
    assert ("toy reached max_steps with one dev loss" in caplog.text) is warned


def test_progress_reports_dev_loss_after_the_first_evaluation(monkeypatch):
    shown: list[set[str]] = []
    monkeypatch.setattr(
        "finetune_scaling.experiments.loop.ProgressReporter.update",
        lambda self, step, **v: shown.append({*v} - {"tokens/s"}),
    )
    run(make_loop(SETTINGS, [3.0, 2.0, 2.5, 1.0, 1.0]))
    assert shown[:3] == [{"loss"}, {"loss"}, {"loss", "dev"}]  # at steps 3 and 4, before the first evaluation, and 6


def test_steps_of_checkpoints():
    loop = make_loop(SETTINGS, [3.0, 2.0, 2.5, 1.0, 1.0])
    run(loop)
    # 4, 8, 16: improvements; 5: keep_steps; 7, 14: save_every; 20: the last
    assert sorted(loop.checkpoints.metadata) == [4, 5, 7, 8, 14, 16, 20]
    assert loop.checkpoints.metadata[14]["best_step"] == 8
    assert loop.checkpoints.metadata[14]["model"] == "toy"


@pytest.mark.parametrize("saved", [4, 5, 7, 8, 14, 16])
def test_resuming_from_any_checkpoint_gives_the_same_run(saved):
    losses = [3.0, 2.0, 2.5, 1.0, 1.0]
    uninterrupted = make_loop(SETTINGS, losses)
    end = run(uninterrupted)
    progress = progress_from_metadata(uninterrupted.checkpoints.metadata[saved])
    resumed = make_loop(SETTINGS, losses[len(progress.losses) :])
    assert run(resumed, progress) == end
    assert resumed.metrics.lines == [line for line in uninterrupted.metrics.lines if line[0] > saved]


def test_training_loss_is_a_mean_over_tokens_for_any_checkpoint_interval():
    by_settings = []
    for save_every in (1, 2, 100):
        loop = make_loop(dataclasses.replace(SETTINGS, save_every=save_every), [1.0] * 5)
        assert run(loop).target_tokens == sum(step + 1 for step in range(1, 21))
        by_settings.append([(step, values) for step, values in loop.metrics.lines if "loss" in values])
    assert by_settings[0] == by_settings[1] == by_settings[2]
    steps = [step for step, _ in by_settings[0]]
    assert steps == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
    for before, (step, values) in zip([0, *steps], by_settings[0], strict=False):
        covered = range(before + 1, step + 1)
        mean = sum(1.5 * k for k in covered) / sum(k + 1 for k in covered)
        assert values == {"loss": pytest.approx(mean), "learning_rate": 0.25, "gradient_norm": step / 8}


def test_a_finished_run_does_not_train():
    loop = make_loop(SETTINGS, [])
    ended = TrainingProgress(step=9, stopped_by="patience")
    assert run(loop, ended) == ended
    assert not loop.metrics.lines


@pytest.mark.parametrize("at", ["step", "evaluation"])
def test_sigterm_during_the_last_step_raises_after_the_checkpoint_is_saved(at):
    """A study may have further runs to execute, so the signal must not be lost."""

    def send_signal(now: str, step: int) -> None:
        if now == at and step == SETTINGS.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def metrics(step: int) -> StepMetrics:
        send_signal("step", step)
        return train_loss(step)

    def dev_loss(trainable: Any) -> float:
        send_signal("evaluation", int(trainable["steps"]))
        return 1.0

    loop = make_loop(SETTINGS, [], metrics)
    loop.dev_loss = dev_loss
    with pytest.raises(Preempted, match="saved step 20 of toy"):
        run(loop)
    ended = progress_from_metadata(loop.checkpoints.metadata[20])
    assert ended.stopped_by == "max_steps"
    assert run(make_loop(SETTINGS, []), ended) == ended


def test_seconds_are_saved_and_default_to_zero():
    loop = make_loop(SETTINGS, [1.0] * 5)
    ticks = iter(range(100))
    loop.seconds = lambda: float(next(ticks))
    run(loop)
    saved = [progress_from_metadata(metadata).seconds for metadata in loop.checkpoints.metadata.values()]
    assert saved == [float(n) for n in range(len(saved))]
    metadata = loop.checkpoints.metadata[20]
    del metadata["position"]["seconds"]
    assert progress_from_metadata(metadata).seconds == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_non_finite_loss_raises_with_step_and_learning_rate_and_is_not_saved(bad):
    def metrics(step: int) -> StepMetrics:
        return train_loss(step)._replace(loss_sum=np.float32(bad)) if step >= 6 else train_loss(step)

    loop_settings = dataclasses.replace(SETTINGS, save_every=1)
    loop = make_loop(loop_settings, [1.0] * 5, metrics)
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step 6 \(learning rate 0.25\): .* delete runs/toy and"
    ):
        run(loop)
    assert max(loop.checkpoints.metadata) == 5


def test_a_non_finite_dev_loss_raises_with_step_and_learning_rate():
    loop = make_loop(SETTINGS, [1.0, math.nan])
    with pytest.raises(TrainingError, match=r"the dev loss is nan at step 8 \(learning rate 0.25\)"):
        run(loop)


def test_non_finite_parameters_are_never_saved():
    # The loss of step 7 is finite, as it is computed before the update.
    loop = make_loop(SETTINGS, [1.0, 1.0], trainable=lambda step: math.inf if step == 7 else step)
    with pytest.raises(TrainingError, match=r"a parameter is not finite after step 7 \(learning rate 0.25\)"):
        run(loop)
    assert sorted(loop.checkpoints.metadata) == [4, 5]
