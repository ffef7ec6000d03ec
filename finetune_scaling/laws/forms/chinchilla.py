"""Chinchilla's law of pretraining: model size N and tokens D."""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent


def _chinchilla(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["N"], p["B"] - p["beta"] * x["D"], p["E"]


CHINCHILLA = Law(
    name="chinchilla",
    formula="L = A / N^alpha + B / D^beta + E",
    factors=("N", "D"),
    parameters=(OFFSET, coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta")),
    log_terms=_chinchilla,
    residual="log",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 10",
)
