"""The candidates of a choice: measured model sizes x methods x measured PET sizes, with their costs and losses."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.formatting import format_count, method_name
from finetune_scaling.recommendation.cost import Cost, CostModel
from finetune_scaling.recommendation.loss_predictions import LossPredictor
from finetune_scaling.recommendation.pet_defaults import PetDefault
from finetune_scaling.tuning.registry import METHODS

PET_NAMES = {name: spec.size_field for name, spec in METHODS.items() if spec.size_field is not None}


@dataclass(frozen=True)
class TuningCandidate:
    """A tuning method on a base model of `size` parameters; pet: PET size, None if unknown or none."""

    method: str
    size: float
    pet: float | None = None

    def __str__(self) -> str:
        """Return the candidate as text: LoRA of rank 4 on 1.01M parameters."""
        pet = "" if self.pet is None else f" of {PET_NAMES.get(self.method, 'size')} {self.pet:g}"
        return f"{method_name(self.method)}{pet} on {format_count(self.size)} parameters"


def list_candidates(
    rows: pd.DataFrame, pets: Mapping[str, PetDefault], further_sizes: Sequence[float] = ()
) -> list[TuningCandidate]:
    """Return each method's measured and further model sizes at each of its candidate PET sizes.

    rows: settings of one task.
    """
    found = []
    for method in dict.fromkeys(rows["method"]):
        own = rows[rows["method"] == method]
        sizes = sorted({*own.loc[own["factor"] == "model", "x"], *further_sizes})
        found += [TuningCandidate(method, size, pet) for size in sizes for pet in pet_sizes(own, pets[method])]
    return found


def pet_sizes(rows: pd.DataFrame, pet: PetDefault) -> list[float | None]:
    """Return the PET sizes whose losses the law predicts: the measured ones, or the default without a law over them.

    rows: settings of one task and method.
    """
    own = rows[rows["factor"] == "pet"]
    fitted = own.loc[~own["held_out"], "x"].nunique()
    if pet.size is None or fitted < 2:
        return [pet.size]
    return sorted({*own["x"], pet.size})


def candidate_costs(
    candidates: Sequence[TuningCandidate], costs: Mapping[str, CostModel], examples: float
) -> dict[TuningCandidate, Cost | None]:
    """Return the cost of each candidate at a dataset size; None where its method's costs are unknown."""
    return {c: costs[c.method](c.size, examples, c.pet) if c.method in costs else None for c in candidates}


def bootstrap_losses(
    candidates: Sequence[TuningCandidate], predictors: Mapping[str, LossPredictor], examples: float
) -> dict[str, np.ndarray]:
    """Return method -> losses [R, C] of its candidates, in their order, by every bootstrap replicate of its fit."""
    return {
        method: np.stack([predictors[method].loss_replicates(c.size, c.pet, examples) for c in own], axis=1)
        for method, own in by_method(candidates)
    }


def by_method(candidates: Sequence[TuningCandidate]) -> Iterator[tuple[str, list[TuningCandidate]]]:
    """Group candidates by method, in order of first appearance."""
    for method in dict.fromkeys(c.method for c in candidates):
        yield method, [c for c in candidates if c.method == method]
