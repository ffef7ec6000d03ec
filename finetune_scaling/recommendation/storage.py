"""How many parameters a choice trains, and the bytes that keeping them takes.

Measured where the points tell it of that base and PET size; elsewhere by a power law in both, where they determine it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.recommendation.candidates import Candidate
from finetune_scaling.recommendation.cost import log_linear, told_apart
from finetune_scaling.recommendation.pet import PetDefault, with_quantities

COLUMN = "trainable_parameters"
BYTES_PER_PARAMETER = 4  # what trains is kept in float32


@dataclass(frozen=True)
class Storage:
    """parameters: that train; measured: whether the points say so of this very base and PET size."""

    parameters: float
    measured: bool

    @property
    def bytes(self) -> float:
        """Bytes in float32, as a run keeps them."""
        return BYTES_PER_PARAMETER * self.parameters


def stored(runs: pd.DataFrame, pet: PetDefault, candidates: Sequence[Candidate]) -> dict[Candidate, Storage | None]:
    """What each candidate of one method trains; None where the points do not tell. runs: of one task and method."""
    known = with_quantities(runs, pet)
    if COLUMN in known:
        known = known.assign(trained=pd.to_numeric(known[COLUMN], errors="coerce"))
        known = known[(known["trained"] > 0) & known["size"].notna()]
    if COLUMN not in known or known.empty:
        return {c: Storage(c.size, True) if c.method == "full" else None for c in candidates}
    return {c: _measured(c, known) or _by_power_law(c, known) for c in candidates}


def _measured(candidate: Candidate, known: pd.DataFrame) -> Storage | None:
    same = known["size"] == candidate.size
    if candidate.pet is not None:
        same &= known["pet"] == candidate.pet
    return Storage(float(known.loc[same, "trained"].iloc[0]), True) if same.any() else None


def _by_power_law(candidate: Candidate, known: pd.DataFrame) -> Storage | None:
    logs = {name: np.log(known[name].fillna(1.0).to_numpy(float)) for name in ("size", "pet")}
    names = told_apart(logs)
    asked: Mapping[str, float] = {"size": candidate.size, "pet": candidate.pet or 1.0}
    if any(name not in names and np.log(asked[name]) != values[0] for name, values in logs.items()):
        return None
    _, found = log_linear({name: logs[name] for name in names}, np.log(known["trained"].to_numpy(float)))
    return Storage(float(np.exp(found @ [1.0, *(np.log(asked[name]) for name in names)])), False)
