"""How far a run has come: what is saved with every checkpoint beside its arrays."""

import dataclasses
import math

from finetune_scaling.runs.checkpoints import CheckpointMetadata


@dataclasses.dataclass
class TrainingProgress:
    """How far a run has come; saved with every checkpoint."""

    step: int = 0
    best_step: int | None = None
    best_loss: float = math.inf
    losses: list[float] = dataclasses.field(default_factory=list)  # of every dev evaluation so far
    steps_evaluated: list[int] = dataclasses.field(default_factory=list)
    target_tokens: int = 0  # that the loss was taken of
    unreported_loss: float = 0.0  # summed over the steps since training loss was last written
    unreported_tokens: float = 0.0
    stopped_by: str | None = None
    seconds: float = 0.0  # that the run took up to its last save, over all its processes

    def add_evaluation(self, step: int, loss: float) -> bool:
        """Notes a dev loss; returns whether it is the best so far."""
        self.losses.append(loss)
        self.steps_evaluated.append(step)
        if loss < self.best_loss:
            self.best_step, self.best_loss = step, loss
            return True
        return False

    @property
    def evaluations_since_best(self) -> int:
        """Dev evaluations after the best one."""
        return sum(step > (self.best_step or 0) for step in self.steps_evaluated)


def progress_from_metadata(metadata: CheckpointMetadata) -> TrainingProgress:
    """The position that a checkpoint was saved with."""
    return TrainingProgress(**metadata["position"])
