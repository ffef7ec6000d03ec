"""The training loop: steps, dev loss, checkpoints, early stopping. Resuming is exact to the bit."""

import dataclasses
import logging
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
from finetune_scaling.experiments.profiling import ProfileWindow
from finetune_scaling.experiments.throughput import Throughput
from finetune_scaling.runs.checkpoints import CheckpointMetadata, Checkpoints
from finetune_scaling.runs.metrics import Metrics, ProgressReporter
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.sharding.batches import transfer_ahead
from finetune_scaling.training.optimizers import ScheduleConfig, learning_rate
from finetune_scaling.training.step import State, StepMetrics, TrainStep, all_finite
from finetune_scaling.trees import Tree

log = logging.getLogger(__name__)
_SHOWN = {"tokens_per_second": "tokens/s", "mfu": "MFU"}  # in the progress line
DevLoss = Callable[[Tree], float]  # trainable parameters -> nats per token


@dataclasses.dataclass(frozen=True)
class LoopSettings:
    """Settings of the loop in steps. limit: the limit that sets total_steps (max_steps, max_epochs, max_tokens)."""

    total_steps: int
    limit: str
    evaluate_every: int
    log_every: int
    save_every: int
    keep_steps: frozenset[int]
    schedule: ScheduleConfig
    patience: int | None
    tolerance: float


class InTrainingEvaluation(NamedTuple):
    """An evaluation every so many training steps. scores: trainable parameters -> scores by name."""

    every_steps: int
    scores: Callable[[Tree], Mapping[str, float]]


@dataclasses.dataclass
class TrainingLoop:
    """The training loop of one run.

    shard_batch: makes this process's rows part of a global array. metadata: constant metadata of every checkpoint.
    seconds: returns the time of the run, including earlier processes. dropout_seed: None without dropout.
    buffer: batches that are assembled ahead.
    """

    title: str
    settings: LoopSettings
    step: TrainStep
    batches: Batches
    shard_batch: Callable[[Batch], Any]
    frozen: Tree
    dev_loss: DevLoss
    checkpoints: Checkpoints
    metrics: Metrics
    metadata: CheckpointMetadata
    seconds: Callable[[], float]
    throughput: Throughput
    profile: ProfileWindow
    evaluations: Sequence[InTrainingEvaluation] = ()
    dropout_seed: int | None = None
    buffer: int = 4

    def run(self, state: State, progress: TrainingProgress) -> tuple[State, TrainingProgress]:
        """Train from `progress` to the end; return the final state and progress.

        Raises:
            TrainingError: a loss or parameter is not finite.
            Preempted: SIGTERM was received; a checkpoint is saved.
            KeyboardInterrupt: Ctrl-C was received; a checkpoint is saved.
        """
        if progress.stopped_by:
            return state, progress
        pending: list[StepMetrics] = []  # of the last steps, still on the device
        reporter = ProgressReporter(self.title, progress.step, self.settings.total_steps)
        batches = iterate(self.batches, progress.step, self.buffer)
        sharded = transfer_ahead(batches, self.shard_batch)
        with closing(batches), closing(self.profile), StopSignal() as stop_signal:
            while not progress.stopped_by:
                inputs = [next(sharded), np.float32(self._learning_rate(progress.step + 1))]
                if self.dropout_seed is not None:
                    inputs.append(np.array([self.dropout_seed, progress.step], np.uint32))
                self.profile.before(progress.step + 1)
                state, step_metrics = self.step(state, self.frozen, *inputs)
                progress.step += 1
                self.profile.after(progress.step, step_metrics)
                pending.append(step_metrics)
                self._report_if_due(pending, progress, reporter)
                if self._is_due(progress.step, self.settings.evaluate_every):
                    self._evaluate(state, progress)
                    progress.stopped_by = self._reason_to_stop(progress)
                self._run_evaluations_if_due(state, progress.step)
                if self._is_checkpoint_due(progress):
                    self._save(state, progress, pending)
                if stop_signal.is_received(progress.step) and not progress.stopped_by:
                    self._save(state, progress, pending)
                    break
            reporter.close()
            self.checkpoints.wait()
            stop_signal.raise_if_received(
                f"saved step {progress.step} of {self.title}; the same command resumes from it"
            )
        return state, progress

    def _is_due(self, step: int, every: int) -> bool:
        return step % every == 0 or step == self.settings.total_steps

    def _is_checkpoint_due(self, progress: TrainingProgress) -> bool:
        step, settings = progress.step, self.settings
        is_best = progress.best_step == step
        return is_best or bool(progress.stopped_by) or step in settings.keep_steps or step % settings.save_every == 0

    def _learning_rate(self, step: int) -> float:
        """Return the learning rate of a step, counted from 1."""
        return learning_rate(self.settings.schedule, step - 1, self.settings.total_steps)

    def _report_if_due(
        self, pending: list[StepMetrics], progress: TrainingProgress, reporter: ProgressReporter
    ) -> None:
        intervals = (self.settings.log_every, self.settings.evaluate_every)
        if any(self._is_due(progress.step, every) for every in intervals):
            rate, norm = self._learning_rate(progress.step), float(pending[-1].gradient_norm)
            self._collect(pending, progress)
            loss = progress.unreported_loss / max(progress.unreported_tokens, 1.0)
            progress.unreported_loss = progress.unreported_tokens = 0.0
            measured = {"time": round(time.time(), 3), **self.throughput.measure(progress.step)}
            self.metrics.write(progress.step, loss=loss, learning_rate=rate, gradient_norm=norm, **measured)
            dev = {"dev": progress.losses[-1]} if progress.losses else {}
            speed = {name: measured[key] for key, name in _SHOWN.items() if key in measured}
            reporter.update(progress.step, loss=loss, **dev, **speed)

    def _collect(self, pending: list[StepMetrics], progress: TrainingProgress) -> None:
        """Add the metrics of pending steps to `progress`. Only here does the host wait for the device."""
        first = progress.step - len(pending) + 1
        for step, values in enumerate(jax.device_get(pending), first):
            self._check_finite(float(values.loss_sum), step)
            progress.unreported_loss += float(values.loss_sum)
            progress.unreported_tokens += float(values.tokens)
            progress.target_tokens += int(values.tokens)
        pending.clear()

    def _evaluate(self, state: State, progress: TrainingProgress) -> None:
        with self.throughput.paused():
            loss = self.dev_loss(state.trainable)
        self._check_finite(loss, progress.step, "dev ")
        progress.add_evaluation(progress.step, loss)
        self.metrics.write(progress.step, dev_loss=loss)

    def _run_evaluations_if_due(self, state: State, step: int) -> None:
        for evaluation in self.evaluations:
            if step % evaluation.every_steps == 0:
                with self.throughput.paused():
                    scores = evaluation.scores(state.trainable)
                self.metrics.write(step, **scores)

    def _reason_to_stop(self, progress: TrainingProgress) -> str | None:
        settings = self.settings
        if settings.patience is not None and progress.evaluations_since_best >= settings.patience:
            return "patience"
        if progress.step < settings.total_steps:
            return None
        if len(progress.losses) < 2:
            log.warning(
                "%s reached %s with one dev loss: it is unknown whether it was still falling; set evaluation.times to "
                "2 or more, or evaluation.every_steps to half the steps or fewer",
                self.title,
                settings.limit,
            )
            return settings.limit
        still_falling = progress.losses[-2] - progress.losses[-1] > settings.tolerance
        return "budget" if still_falling else settings.limit

    def _save(self, state: State, progress: TrainingProgress, pending: list[StepMetrics]) -> None:
        """Save asynchronously. Raises TrainingError instead of saving parameters that are not finite."""
        self._collect(pending, progress)
        if not all_finite(state):  # the step's loss was computed before its update
            raise self._not_finite("a parameter is not finite after", progress.step)
        progress.seconds = round(self.seconds(), 3)
        metadata = {**self.metadata, "position": dataclasses.asdict(progress), "best_step": progress.best_step}
        self.metrics.flush()  # before the checkpoint, which must not be newer than the metrics
        with self.throughput.paused():
            self.checkpoints.save(progress.step, state, metadata)

    def _check_finite(self, loss: float, step: int, kind: str = "") -> None:
        if not math.isfinite(loss):
            raise self._not_finite(f"the {kind}loss is {loss} at", step)

    def _not_finite(self, what: str, step: int) -> TrainingError:
        return TrainingError(
            f"{what} step {step} (learning rate {self._learning_rate(step):.3g}): lower schedule.learning_rate, add "
            f"schedule.warmup_steps or lower optimizer.clip_norm; delete {self.checkpoints.directory.parent} and run "
            "the same command with the changed config"
        )


class StopSignal:
    """Turns SIGTERM and Ctrl-C into a request to stop after the current step; a second Ctrl-C interrupts at once.

    A KeyboardInterrupt in the middle of a step could be lost in a library that saves a checkpoint. Only the main
    thread can handle signals. In a distributed run JAX handles SIGTERM and finds a step after which all processes stop.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    def __enter__(self) -> "StopSignal":
        if threading.current_thread() is threading.main_thread() and jax.process_count() == 1:
            self._previous_handlers = {
                number: signal.signal(number, self._record) for number in (signal.SIGTERM, signal.SIGINT)
            }
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def _record(self, number: int, _: object) -> None:
        if self._signal == signal.SIGINT == number:
            raise KeyboardInterrupt
        self._signal = number

    def is_received(self, step: int) -> bool:
        """Return whether to stop after this step; the same on all processes."""
        if jax.process_count() > 1 and multihost_utils.reached_preemption_sync_point(step):
            self._signal = signal.SIGTERM
        return self._signal is not None

    def raise_if_received(self, message: str) -> None:
        """Raise Preempted or KeyboardInterrupt if the signal was received, also after the last step."""
        if self._signal == signal.SIGTERM:
            raise Preempted(message)
        if self._signal == signal.SIGINT:
            raise KeyboardInterrupt
