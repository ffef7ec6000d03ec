"""The PET size of a method's model rows and the base model of its PET rows, which connect both laws."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

SAME_RUN = ["finetune_examples", "loss"]


@dataclass(frozen=True)
class PetDefault:
    """Settings that one factor holds fixed while the other varies.

    size: PET size of the rows that vary the model; base: parameters of the model of the rows that vary the PET size;
    None where the points do not say.
    """

    size: float | None = None
    base: float | None = None


def pet_default(rows: pd.DataFrame) -> PetDefault:
    """Read both from the columns pet_size and parameters, or else from a run shared by the two factors.

    rows: settings of one task and method.
    """
    model, pet = rows[rows["factor"] == "model"], rows[rows["factor"] == "pet"]
    shared = model.merge(pet, on=SAME_RUN, suffixes=("_model", "_pet"))
    size, base = _most_common(model, "pet_size"), _most_common(pet, "parameters")
    if len(shared):
        size = float(shared["x_pet"].iloc[0]) if size is None else size
        base = float(shared["x_model"].iloc[0]) if base is None else base
    return PetDefault(size, base)


def known_quantities(rows: pd.DataFrame, pet: PetDefault, column: str) -> pd.DataFrame:
    """Return the columns size, examples, pet (NaN where unknown) and `column` of the rows that have size and column.

    rows: of the factors model and pet of one task and method; others are left out.
    """
    rows = rows[rows["factor"].isin(("model", "pet"))]
    varies_model = rows["factor"] == "model"
    known = pd.DataFrame(
        {
            "size": rows["x"].where(varies_model, np.nan if pet.base is None else pet.base),
            "examples": rows["finetune_examples"],
            "pet": rows["x"].where(~varies_model, np.nan if pet.size is None else pet.size),
            column: pd.to_numeric(rows[column], errors="coerce") if column in rows else np.nan,
        }
    )
    return known[(known[column] > 0) & known["size"].notna()]


def _most_common(rows: pd.DataFrame, column: str) -> float | None:
    values = rows[column].dropna() if column in rows else rows["x"].iloc[:0]
    return float(values.mode().iloc[0]) if len(values) else None
