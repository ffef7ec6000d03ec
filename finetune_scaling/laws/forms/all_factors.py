"""One law over all factors at once: model size N, pretraining tokens T, PET size P and finetuning examples D."""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent

SMALL_EXPONENTS = (0.0, 0.3)  # six parameters: a wide grid for each would be tens of thousands of starts


def _all_factors(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    powers = p["alphaN"] * x["N"] + p["alphaT"] * x["T"] + p["alphaP"] * x["P"] + p["beta"] * x["D"]
    return p["A"] - powers, p["E"]


ALL_FACTORS = Law(
    name="all_factors",
    formula="L = A / (N^alphaN * T^alphaT * P^alphaP * D^beta) + E",
    factors=("N", "T", "P", "D"),
    parameters=(
        OFFSET,
        coefficient("A"),
        exponent("alphaN", starts=SMALL_EXPONENTS),
        exponent("alphaT", starts=SMALL_EXPONENTS),
        exponent("alphaP", starts=(0.0,)),
        exponent("beta", starts=SMALL_EXPONENTS),
    ),
    log_terms=_all_factors,
    residual="linear",
    source="the multiplicative law of Zhang et al. 2024, arXiv 2402.17193, with one constant for all factors",
    sizes_needed=2,
)
