"""How many parameters a choice trains, and the bytes that keeping them takes.

Measured where the points tell it for that base and PET size; between those, and beyond, a power law in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.scaling.guidance.candidates import Candidate
from finetune_scaling.scaling.guidance.cost import told_apart, with_quantities
from finetune_scaling.scaling.guidance.pet import PetDefault

COLUMN = "trainable_parameters"
BYTES_PER_PARAMETER = 4  # what trains is kept in float32


@dataclass(frozen=True)
class Storage:
    """parameters: that train; measured: whether the points say so for this very base and PET size."""

    parameters: float
    measured: bool

    @property
    def bytes(self) -> float:
        """Bytes in float32, as a run keeps them."""
        return BYTES_PER_PARAMETER * self.parameters


def stored(
    runs: pd.DataFrame, pet: PetDefault, candidates: Sequence[Candidate]
) -> dict[Candidate, Storage | None]:
    """What each candidate of one method trains; None where the points do not tell. runs: of one task and method."""
    known = with_quantities(runs, pet)
    if COLUMN in known:
        known = known.assign(trained=pd.to_numeric(known[COLUMN], errors="coerce"))
        known = known[(known["trained"] > 0) & known["size"].notna()]
    if COLUMN not in known or known.empty:
        return {c: Storage(c.size, True) if c.method == "full" else None for c in candidates}
    logs = {name: np.log(known[name].fillna(1.0).to_numpy(float)) for name in ("size", "pet")}
    names = told_apart(logs)
    design = np.column_stack([np.ones(len(known)), *(logs[name] for name in names)])
    found, *_ = np.linalg.lstsq(design, np.log(known["trained"].to_numpy(float)), rcond=None)
    varied = {name: known[name].nunique() > 1 for name in logs}
    return {c: _of(c, known, dict(zip(("constant", *names), found, strict=True)), varied) for c in candidates}


def _of(
    candidate: Candidate, known: pd.DataFrame, exponents: dict[str, float], varied: dict[str, bool]
) -> Storage | None:
    same = known["size"] == candidate.size
    if candidate.pet is not None:
        same &= known["pet"] == candidate.pet
    if same.any():
        return Storage(float(known.loc[same, "trained"].iloc[0]), True)
    logs = {"size": np.log(candidate.size), "pet": np.log(candidate.pet or 1.0)}
    usual = {"size": known["size"].iloc[0], "pet": known["pet"].iloc[0]}
    if any(not varied[name] and np.exp(logs[name]) != usual[name] and name not in exponents for name in logs if usual[name] == usual[name]):
        return None
    return Storage(float(np.exp(exponents["constant"] + sum(exponents.get(n, 0.0) * logs[n] for n in logs))), False)
