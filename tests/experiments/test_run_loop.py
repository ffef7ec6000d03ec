"""The loop by itself, with a made-up model: when it stops, what it saves, what it writes, and losses not finite."""

import dataclasses
import math
import os
import signal
from typing import Any

import grain
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.data.loader import Batches
from finetune_scaling.errors import Preempted, TrainingError
from finetune_scaling.experiments.loop import LoopSettings, TrainingLoop
from finetune_scaling.runs.training_progress import TrainingProgress, progress_from_metadata
from finetune_scaling.training.optimizers import ScheduleConfig
from finetune_scaling.training.step import State, StepMetrics

PLAN = LoopSettings(
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


class Saved:
    """Checkpoints that only remember what they were given."""

    def __init__(self):
        self.metadata: dict[int, dict[str, Any]] = {}

    def save(self, step: int, state: State, metadata: dict[str, Any]) -> None:
        assert float(state.trainable["steps"]) == step
        self.metadata[step] = metadata

    def wait(self) -> None:
        pass


class Written:
    """Metrics that are only remembered."""

    def __init__(self):
        self.lines: list[tuple[int, dict[str, float]]] = []

    def write(self, step: int, **values: float) -> None:
        values.pop("time", None)
        self.lines.append((step, values))

    def flush(self) -> None:
        """Nothing waits to be written."""


def train_loss(step: int) -> StepMetrics:
    """Sum over step + 1 tokens, and the gradient's norm."""
    return StepMetrics(np.float32(1.5 * step), np.float32(step + 1), np.float32(step / 8))


def make_loop(
    plan: LoopSettings, dev_losses: list[float], step_metrics=train_loss, trainable=lambda step: float(step)
) -> TrainingLoop:
    def step(state, frozen, batch, rate):
        number = int(state.trainable["steps"]) + 1
        return State({"steps": np.float32(trainable(number))}, {}), step_metrics(number)

    batches = Batches(grain.MapDataset.range(1000), lambda key: key, batch_size=1, rows_per_epoch=10, statistics={})
    script = iter(dev_losses)
    return TrainingLoop(
        "toy",
        plan,
        step,
        batches,
        lambda batch: batch,
        {},
        lambda tree: next(script),
        Saved(),
        Written(),
        {"model": "toy"},
        lambda: 0.0,
    )


def run(loop: TrainingLoop, position: TrainingProgress | None = None) -> TrainingProgress:
    start = TrainingProgress() if position is None else position
    return loop.run(State({"steps": np.float32(start.step)}, {}), start)[1]


def evaluations(plan: LoopSettings) -> list[int]:
    return sorted({*range(plan.evaluate_every, plan.total_steps + 1, plan.evaluate_every), plan.total_steps})


@settings(max_examples=40, deadline=None)
@given(
    losses=st.lists(st.integers(0, 12).map(lambda n: n / 4), min_size=20, max_size=20),
    total=st.integers(1, 20),
    every=st.integers(1, 7),
    patience=st.none() | st.integers(1, 3),
)
def test_a_run_stops_where_its_rules_say_and_keeps_the_best(losses, total, every, patience):
    plan = dataclasses.replace(PLAN, total_steps=total, evaluate_every=every, patience=patience, keep_steps=frozenset())
    loop = make_loop(plan, losses)
    position = run(loop)

    best, stop, reason = None, total, None
    for number, step in enumerate(evaluations(plan)):
        if best is None or losses[number] < losses[best]:
            best = number
        if patience is not None and number - best >= patience:
            stop, reason = step, "patience"
            break
    seen = evaluations(plan).index(stop) + 1
    if reason is None:
        reason = "budget" if seen > 1 and losses[seen - 2] - losses[seen - 1] > plan.tolerance else "max_steps"
    assert (position.step, position.stopped_by) == (stop, reason)
    assert (position.best_step, position.best_loss) == (evaluations(plan)[best], losses[best])
    assert position.losses == losses[:seen]
    assert {position.best_step, stop} <= loop.checkpoints.metadata.keys()
    assert all(
        metadata["best_step"] is None or metadata["best_step"] <= step
        for step, metadata in loop.checkpoints.metadata.items()
    )


def test_progress_shows_a_dev_loss_once_there_is_one(monkeypatch):
    shown: list[set[str]] = []
    monkeypatch.setattr(
        "finetune_scaling.experiments.loop.ProgressReporter.update", lambda self, step, **v: shown.append(set(v))
    )
    run(make_loop(PLAN, [3.0, 2.0, 2.5, 1.0, 1.0]))
    assert shown[:3] == [{"loss"}, {"loss"}, {"loss", "dev"}]  # at steps 3 and 4, before the first evaluation, and 6


def test_what_is_saved_and_when():
    loop = make_loop(PLAN, [3.0, 2.0, 2.5, 1.0, 1.0])
    run(loop)
    # 4, 8, 16: better; 5: asked for; 7, 14: every 7 steps; 20: the end
    assert sorted(loop.checkpoints.metadata) == [4, 5, 7, 8, 14, 16, 20]
    assert loop.checkpoints.metadata[14]["best_step"] == 8
    assert loop.checkpoints.metadata[14]["model"] == "toy"


@pytest.mark.parametrize("saved", [4, 5, 7, 8, 14, 16])
def test_from_every_checkpoint_the_rest_is_the_same(saved):
    losses = [3.0, 2.0, 2.5, 1.0, 1.0]
    whole = make_loop(PLAN, losses)
    end = run(whole)
    position = progress_from_metadata(whole.checkpoints.metadata[saved])
    rest = make_loop(PLAN, losses[len(position.losses) :])
    assert run(rest, position) == end
    assert rest.metrics.lines == [line for line in whole.metrics.lines if line[0] > saved]


def test_training_loss_is_a_mean_over_tokens_however_often_it_is_saved():
    by_plan = []
    for save_every in (1, 2, 100):
        loop = make_loop(dataclasses.replace(PLAN, save_every=save_every), [1.0] * 5)
        assert run(loop).target_tokens == sum(step + 1 for step in range(1, 21))
        by_plan.append([(step, values) for step, values in loop.metrics.lines if "loss" in values])
    assert by_plan[0] == by_plan[1] == by_plan[2]
    steps = [step for step, _ in by_plan[0]]
    assert steps == [3, 4, 6, 8, 9, 12, 15, 16, 18, 20]
    for before, (step, values) in zip([0, *steps], by_plan[0], strict=False):
        covered = range(before + 1, step + 1)
        mean = sum(1.5 * k for k in covered) / sum(k + 1 for k in covered)
        assert values == {"loss": pytest.approx(mean), "learning_rate": 0.25, "gradient_norm": step / 8}


def test_a_run_that_had_ended_trains_no_further():
    loop = make_loop(PLAN, [])
    ended = TrainingProgress(step=9, stopped_by="patience")
    assert run(loop, ended) == ended
    assert not loop.metrics.lines


@pytest.mark.parametrize("at", ["step", "evaluation"])
def test_a_notice_to_end_during_the_last_step_is_obeyed_when_all_is_saved(at):
    """Nothing is left to train, but whoever runs this has perhaps further runs to do."""

    def ask(now: str, step: int) -> None:
        if now == at and step == PLAN.total_steps:
            os.kill(os.getpid(), signal.SIGTERM)

    def metrics(step: int) -> StepMetrics:
        ask("step", step)
        return train_loss(step)

    def dev_loss(trainable: Any) -> float:
        ask("evaluation", int(trainable["steps"]))
        return 1.0

    loop = make_loop(PLAN, [], metrics)
    loop.dev_loss = dev_loss
    with pytest.raises(Preempted, match="saved step 20 of toy; the same command goes on from there"):
        run(loop)
    ended = progress_from_metadata(loop.checkpoints.metadata[20])
    assert ended.stopped_by == "max_steps"
    assert run(make_loop(PLAN, []), ended) == ended


def test_seconds_are_saved_and_an_older_position_has_none():
    loop = make_loop(PLAN, [1.0] * 5)
    ticks = iter(range(100))
    loop.seconds = lambda: float(next(ticks))
    run(loop)
    saved = [progress_from_metadata(metadata).seconds for metadata in loop.checkpoints.metadata.values()]
    assert saved == [float(n) for n in range(len(saved))]
    metadata = loop.checkpoints.metadata[20]
    del metadata["position"]["seconds"]
    assert progress_from_metadata(metadata).seconds == 0.0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_stops_with_step_rate_and_mend_and_saves_nothing(bad):
    def metrics(step: int) -> StepMetrics:
        return train_loss(step)._replace(loss_sum=np.float32(bad)) if step >= 6 else train_loss(step)

    plan = dataclasses.replace(PLAN, save_every=1)
    loop = make_loop(plan, [1.0] * 5, metrics)
    with pytest.raises(
        TrainingError, match=r"the loss is (nan|inf) at step 6 \(learning rate 0.25\): lower schedule"
    ) as raised:
        run(loop)
    assert "delete its directory, or give another --workdir" in str(raised.value)  # the first holds in a study too
    assert max(loop.checkpoints.metadata) == 5


def test_a_dev_loss_that_is_not_finite_names_step_and_rate_too():
    loop = make_loop(PLAN, [1.0, math.nan])
    with pytest.raises(TrainingError, match=r"the dev loss is nan at step 8 \(learning rate 0.25\)"):
        run(loop)


def test_parameters_that_are_not_finite_are_never_saved():
    # The loss of step 7 is still finite: it is taken before the update that breaks the parameters.
    loop = make_loop(PLAN, [1.0, 1.0], trainable=lambda step: math.inf if step == 7 else step)
    with pytest.raises(TrainingError, match=r"a parameter is not finite after step 7 \(learning rate 0.25\)"):
        run(loop)
    assert sorted(loop.checkpoints.metadata) == [4, 5]
