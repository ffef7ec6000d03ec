"""The number of trainable parameters of a candidate and the bytes that storing them takes.

Measured where the points have a run on that base model at that PET size, otherwise predicted by a power law in both.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.cost import identifiable, log_linear
from finetune_scaling.recommendation.pet_defaults import PetDefault, known_quantities

COLUMN = "trainable_parameters"
BYTES_PER_PARAMETER = 4  # checkpoints hold trainable parameters in float32


@dataclass(frozen=True)
class Storage:
    """Number of trainable parameters of a candidate.

    measured: whether a run of the points has this base model and PET size.
    """

    parameters: float
    measured: bool

    @property
    def bytes(self) -> float:
        """Bytes of the parameters in float32."""
        return BYTES_PER_PARAMETER * self.parameters


def candidate_storage(
    runs: pd.DataFrame, pet: PetDefault, candidates: Sequence[TuningCandidate]
) -> dict[TuningCandidate, Storage | None]:
    """Return the storage of each candidate of one method, None where unknown; runs: of one task and method."""
    known = known_quantities(runs, pet, COLUMN)
    if known.empty:
        return {c: Storage(c.size, True) if c.method == "full" else None for c in candidates}
    return {c: _measured(c, known) or _by_power_law(c, known) for c in candidates}


def _measured(candidate: TuningCandidate, known: pd.DataFrame) -> Storage | None:
    same = known["size"] == candidate.size
    if candidate.pet is not None:
        same &= known["pet"] == candidate.pet
    return Storage(float(known.loc[same, COLUMN].iloc[0]), True) if same.any() else None


def _by_power_law(candidate: TuningCandidate, known: pd.DataFrame) -> Storage | None:
    logs = {name: np.log(known[name].fillna(1.0).to_numpy(float)) for name in ("size", "pet")}
    names = identifiable(logs)
    wanted: Mapping[str, float] = {"size": candidate.size, "pet": candidate.pet or 1.0}
    if any(name not in names and np.log(wanted[name]) != values[0] for name, values in logs.items()):
        return None
    _, found = log_linear({name: logs[name] for name in names}, np.log(known[COLUMN].to_numpy(float)))
    return Storage(float(np.exp(found @ [1.0, *(np.log(wanted[name]) for name in names)])), False)
