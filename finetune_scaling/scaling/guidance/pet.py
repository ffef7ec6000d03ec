"""Which PET size the model rows were measured at, and which base the PET rows: where the laws over both meet."""

from dataclasses import dataclass

import pandas as pd

SAME_RUN = ["finetune_examples", "loss"]


@dataclass(frozen=True)
class PetDefault:
    """size: the PET size of a method's model rows; base: parameters of the model of its PET rows; None where untold."""

    size: float | None = None
    base: float | None = None


def pet_default(rows: pd.DataFrame) -> PetDefault:
    """Reads both from the columns pet_size and parameters, or else from a run that stands under both factors.

    rows: settings of one task and method.
    """
    model, pet = rows[rows["factor"] == "model"], rows[rows["factor"] == "pet"]
    shared = model.merge(pet, on=SAME_RUN, suffixes=("_model", "_pet"))
    size, base = _usual(model, "pet_size"), _usual(pet, "parameters")
    if len(shared):
        size = float(shared["x_pet"].iloc[0]) if size is None else size
        base = float(shared["x_model"].iloc[0]) if base is None else base
    return PetDefault(size, base)


def _usual(rows: pd.DataFrame, column: str) -> float | None:
    """The commonest value of a column; None where it is empty or missing."""
    values = rows[column].dropna() if column in rows else rows["x"].iloc[:0]
    return float(values.mode().iloc[0]) if len(values) else None
