"""The progress of training, saved with every checkpoint so that a run resumes exactly where it stopped."""

import dataclasses
import math
from typing import Any

from finetune_scaling.files import finite_or_none


@dataclasses.dataclass
class TrainingProgress:
    """Step, dev losses, and sums for the next logged training loss, at one point of training."""

    step: int = 0
    best_step: int | None = None
    best_loss: float | None = None  # None before the first evaluation
    losses: list[float] = dataclasses.field(default_factory=list)  # of all dev evaluations so far
    steps_evaluated: list[int] = dataclasses.field(default_factory=list)
    target_tokens: int = 0  # that contributed to the training loss
    unreported_loss: float = 0.0  # sum over the steps since training loss was last logged
    unreported_tokens: float = 0.0
    stopped_by: str | None = None
    seconds: float = 0.0  # training time up to the last checkpoint, summed over restarts

    def add_evaluation(self, step: int, loss: float) -> bool:
        """Record a dev loss; return whether it is the best so far."""
        self.losses.append(loss)
        self.steps_evaluated.append(step)
        if self.best_loss is None or loss < self.best_loss:
            self.best_step, self.best_loss = step, loss
            return True
        return False

    @property
    def evaluations_since_best(self) -> int:
        """Number of dev evaluations after the best one."""
        return sum(step > (self.best_step or 0) for step in self.steps_evaluated)


def progress_from_metadata(metadata: dict[str, Any]) -> TrainingProgress:
    """Return the progress that a checkpoint was saved with. Raises KeyError or TypeError if it is damaged."""
    position = dict(metadata["position"])
    # Older checkpoints have Infinity before the first evaluation; newer ones have null in place of what is not finite.
    position["best_loss"] = finite_or_none(position.get("best_loss"))
    if position.get("unreported_loss", 0.0) is None:
        position["unreported_loss"] = math.nan
    progress = TrainingProgress(**position)
    for name, value in dataclasses.asdict(TrainingProgress()).items():
        if value is not None and not isinstance(found := getattr(progress, name), type(value) | int):
            raise TypeError(f"position.{name} is {found!r}")
    return progress
