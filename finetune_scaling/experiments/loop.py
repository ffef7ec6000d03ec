"""The training loop: steps, dev loss, the best checkpoint, early stopping, and a resume that is exact to the bit."""

import dataclasses
import math
import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.experimental import multihost_utils

from finetune_scaling.data.loader import Batches, iterate
from finetune_scaling.data.packing import Batch
from finetune_scaling.errors import Preempted, TrainingError
from finetune_scaling.runs.checkpoints import CheckpointMetadata, Checkpoints
from finetune_scaling.runs.metrics import Metrics, ProgressReporter
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.training.optimizers import ScheduleConfig, learning_rate
from finetune_scaling.training.step import State, StepMetrics, TrainStep, all_finite
from finetune_scaling.trees import Tree

DevLoss = Callable[[Tree], float]  # trainable parameters -> nats a token


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """The numbers that steer a loop. limit: which limit ends it at total_steps (max_steps, max_epochs, max_tokens)."""

    total_steps: int
    limit: str
    evaluate_every: int
    log_every: int
    save_every: int
    keep_steps: frozenset[int]
    schedule: ScheduleConfig
    patience: int | None
    tolerance: float


class PendingMetrics(NamedTuple):
    """The numbers of a step that are still on the device."""

    step: int
    rate: float
    metrics: StepMetrics


class InTrainingEvaluation(NamedTuple):
    """Further numbers of a model while it trains, every so many steps: trainable parameters -> numbers by name."""

    every_steps: int
    measure: Callable[[Tree], Mapping[str, float]]


@dataclasses.dataclass
class TrainingLoop:
    """Everything that one run's loop works with.

    place: puts a batch of this process's rows on the devices. metadata: constant metadata to save with each checkpoint.
    seconds: tells how long the run has taken, all its processes. evaluations: what else is measured, and written down.
    """

    title: str
    plan: LoopSettings
    step: TrainStep
    batches: Batches
    place: Callable[[Batch], Any]
    frozen: Tree
    dev_loss: DevLoss
    checkpoints: Checkpoints
    metrics: Metrics
    metadata: CheckpointMetadata
    seconds: Callable[[], float]
    evaluations: Sequence[InTrainingEvaluation] = ()

    def run(self, state: State, position: TrainingProgress) -> tuple[State, TrainingProgress]:
        """Trains from `position` to the end.

        Raises TrainingError on a loss that is not finite; with everything saved, Preempted on SIGTERM and
        KeyboardInterrupt on Ctrl-C.
        """
        if position.stopped_by:
            return state, position
        pending: list[PendingMetrics] = []
        progress = ProgressReporter(self.title, position.step, self.plan.total_steps)
        batches = iterate(self.batches, position.step)
        with closing(batches), StopSignal() as notice:
            while not position.stopped_by:
                rate = learning_rate(self.plan.schedule, position.step, self.plan.total_steps)
                state, numbers = self.step(state, self.frozen, self.place(next(batches)), np.float32(rate))
                position.step += 1
                pending.append(PendingMetrics(position.step, rate, numbers))
                self._report_if_due(pending, position, progress)
                if self._is_due(position.step, self.plan.evaluate_every):
                    self._evaluate(state, position, rate)
                    position.stopped_by = self._reason_to_stop(position)
                self._probe_if_due(state, position.step)
                self._save_if_due(state, position, pending, rate)
                if notice.is_due(position.step) and not position.stopped_by:
                    self._save(state, position, pending, rate)
                    break
            progress.close()
            self.checkpoints.wait()
            notice.obey(f"saved step {position.step} of {self.title}; the same command goes on from there")
        return state, position

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.plan.total_steps

    def _report_if_due(
        self, pending: list[PendingMetrics], position: TrainingProgress, progress: ProgressReporter
    ) -> None:
        if self._is_due(position.step, self.plan.log_every) or self._is_due(position.step, self.plan.evaluate_every):
            rate, norm = pending[-1].rate, float(pending[-1].metrics.gradient_norm)
            self._collect(pending, position)
            loss = position.unreported_loss / max(position.unreported_tokens, 1.0)
            position.unreported_loss = position.unreported_tokens = 0.0
            now = round(time.time(), 3)
            self.metrics.write(position.step, loss=loss, learning_rate=rate, gradient_norm=norm, time=now)
            dev = {"dev": position.losses[-1]} if position.losses else {}
            progress.update(position.step, loss=loss, **dev)

    def _collect(self, pending: list[PendingMetrics], position: TrainingProgress) -> None:
        """Adds up the steps since the last time; the device is waited for only here."""
        for entry, values in zip(pending, jax.device_get([entry.metrics for entry in pending]), strict=True):
            _check_finite(float(values.loss_sum), entry.step, entry.rate)
            position.unreported_loss += float(values.loss_sum)
            position.unreported_tokens += float(values.tokens)
            position.target_tokens += int(values.tokens)
        pending.clear()

    def _evaluate(self, state: State, position: TrainingProgress, rate: float) -> None:
        loss = self.dev_loss(state.trainable)
        _check_finite(loss, position.step, rate, "dev ")
        position.add_evaluation(position.step, loss)
        self.metrics.write(position.step, dev_loss=loss)

    def _probe_if_due(self, state: State, step: int) -> None:
        for probe in self.evaluations:
            if step % probe.every_steps == 0:
                self.metrics.write(step, **probe.measure(state.trainable))

    def _reason_to_stop(self, position: TrainingProgress) -> str | None:
        plan = self.plan
        if plan.patience is not None and position.evaluations_since_best >= plan.patience:
            return "patience"
        if position.step < plan.total_steps:
            return None
        still_falling = len(position.losses) > 1 and position.losses[-2] - position.losses[-1] > plan.tolerance
        return "budget" if still_falling else plan.limit

    def _save_if_due(
        self, state: State, position: TrainingProgress, pending: list[PendingMetrics], rate: float
    ) -> None:
        step, plan = position.step, self.plan
        better = position.best_step == step
        if better or position.stopped_by or step in plan.keep_steps or step % plan.save_every == 0:
            self._save(state, position, pending, rate)

    def _save(self, state: State, position: TrainingProgress, pending: list[PendingMetrics], rate: float) -> None:
        """Saves in the background; raises TrainingError rather than save numbers that are not finite."""
        self._collect(pending, position)
        if not all_finite(state):  # the step's loss was, but it is taken before the step's update
            raise _not_finite("a parameter is not finite after", position.step, rate)
        position.seconds = round(self.seconds(), 3)
        metadata = {**self.metadata, "position": dataclasses.asdict(position), "best_step": position.best_step}
        self.metrics.flush()  # first: a checkpoint is not to be ahead of the metrics
        self.checkpoints.save(position.step, state, metadata)


def _check_finite(loss: float, step: int, rate: float, kind: str = "") -> None:
    if not math.isfinite(loss):
        raise _not_finite(f"the {kind}loss is {loss} at", step, rate)


def _not_finite(what: str, step: int, rate: float) -> TrainingError:
    return TrainingError(
        f"{what} step {step} (learning rate {rate:.3g}): lower schedule.learning_rate, add schedule.warmup_steps or "
        "lower optimizer.clip_norm, and start the run anew: delete its directory, or give another --workdir"
    )


class StopSignal:
    """Takes SIGTERM and Ctrl-C as a wish to stop after the present step; a second Ctrl-C interrupts at once.

    Raised in the middle of a step, KeyboardInterrupt could come while a library saves a checkpoint, and be lost there
    or leave its threads behind. Only a process's main thread may ask for signals. Where several processes train
    together, JAX takes SIGTERM and finds the step after which all of them stop.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _: object) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def is_due(self, step: int) -> bool:
        """Whether to stop after this step; the same on all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    def obey(self, what: str) -> None:
        """Raises what was asked for, if anything: perhaps during the last step, whose run is saved all the same."""
        if self._signal == signal.SIGTERM:
            raise Preempted(what)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
