"""What can be chosen: measured model sizes x methods x measured PET sizes, each with its losses and its cost."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.recommendation.cost import Cost, CostModel
from finetune_scaling.recommendation.pet import PetDefault
from finetune_scaling.recommendation.surface import Surface


@dataclass(frozen=True)
class Candidate:
    """A method on a base of so many parameters; pet: prompt length or rank, None where it is none or not known."""

    method: str
    size: float
    pet: float | None = None


def list_candidates(
    rows: pd.DataFrame, pets: Mapping[str, PetDefault], further_sizes: Sequence[float] = ()
) -> list[Candidate]:
    """The candidates of a task: each method's measured sizes and further ones, at each of its measured PET sizes.

    rows: settings of one task. Without a known default PET size, or a law over PET size, a method has its default only.
    """
    found = []
    for method in dict.fromkeys(rows["method"]):
        own = rows[rows["method"] == method]
        sizes = sorted({*own.loc[own["factor"] == "model", "x"], *further_sizes})
        found += [Candidate(method, size, pet) for size in sizes for pet in pet_sizes(own, pets[method])]
    return found


def pet_sizes(rows: pd.DataFrame, pet: PetDefault) -> list[float | None]:
    """PET sizes of one task and method that its laws tell apart: the measured ones and the default."""
    of_pet = rows[rows["factor"] == "pet"]
    fitted = of_pet.loc[~of_pet["held_out"], "x"].nunique()
    if pet.size is None or fitted < 2:
        return [pet.size]
    return sorted({*of_pet["x"], pet.size})


def priced(
    candidates: Sequence[Candidate], costs: Mapping[str, CostModel], examples: float
) -> dict[Candidate, Cost | None]:
    """What each candidate costs at so many examples; None where its method's costs are not known."""
    return {c: costs[c.method](c.size, examples, c.pet) if c.method in costs else None for c in candidates}


def drawn_losses(
    candidates: Sequence[Candidate], surfaces: Mapping[str, Surface], examples: float
) -> dict[str, np.ndarray]:
    """method -> losses [R, C] by every draw of its fit, of its candidates in their order."""
    return {
        method: np.stack([surfaces[method].draws(c.size, c.pet, examples) for c in own], axis=1)
        for method, own in by_method(candidates)
    }


def by_method(candidates: Sequence[Candidate]) -> Iterator[tuple[str, list[Candidate]]]:
    """Candidates grouped by method, methods in their order."""
    for method in dict.fromkeys(c.method for c in candidates):
        yield method, [c for c in candidates if c.method == method]
