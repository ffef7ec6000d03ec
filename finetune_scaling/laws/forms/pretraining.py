"""Loss of pretraining against model size alone, at one budget of tokens."""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent


def _pretraining(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["N"], p["E"]


PRETRAINING = Law(
    name="pretraining",
    formula="L = A / N^alpha + E",
    factors=("N",),
    parameters=(OFFSET, coefficient("A"), exponent("alpha")),
    log_terms=_pretraining,
    residual="linear",
    source="Zhang et al. 2024, arXiv 2402.17193, figure 10",
)
