"""Which PET size the model rows were measured at, and which base the PET rows: where the laws over both meet."""

from dataclasses import dataclass

import numpy as np
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


def with_quantities(rows: pd.DataFrame, pet: PetDefault) -> pd.DataFrame:
    """Rows of the factors model and pet with columns size, examples and pet; NaN where they do not tell."""
    rows = rows[rows["factor"].isin(("model", "pet"))]
    of_model = rows["factor"] == "model"
    return rows.assign(
        size=rows["x"].where(of_model, np.nan if pet.base is None else pet.base),
        examples=rows["finetune_examples"],
        pet=rows["x"].where(~of_model, np.nan if pet.size is None else pet.size),
    )


def _usual(rows: pd.DataFrame, column: str) -> float | None:
    """The commonest value of a column; None where it is empty or missing."""
    values = rows[column].dropna() if column in rows else rows["x"].iloc[:0]
    return float(values.mode().iloc[0]) if len(values) else None
