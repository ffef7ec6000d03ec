"""The paper's joint laws of one factor X (model size, pretraining tokens or PET size) and the finetuning examples D."""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent

SOURCE = "Zhang et al. 2024, arXiv 2402.17193, section 4"


def _multiplicative(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["X"] - p["beta"] * x["D"], p["E"]


def _additive(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["X"], p["B"] - p["beta"] * x["D"], p["E"]


MULTIPLICATIVE = Law(
    name="multiplicative",
    formula="L = A / (X^alpha * D^beta) + E",
    factors=("X", "D"),
    parameters=(OFFSET, exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=_multiplicative,
    residual="linear",
    source=SOURCE,
    sizes_needed=2,
)
ADDITIVE = Law(
    name="additive",
    formula="L = A / X^alpha + B / D^beta + E",
    factors=("X", "D"),
    parameters=(OFFSET, coefficient("B"), exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=_additive,
    residual="linear",
    source=SOURCE,
)
