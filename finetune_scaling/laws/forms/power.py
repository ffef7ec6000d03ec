"""Power laws in the number of finetuning examples alone."""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent


def _single(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["beta"] * x["D"], p["E"]


def _vanilla(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return (p["alpha"] * xp.logaddexp(p["A"] - p["beta"] * x["D"], p["E"]),)


SINGLE = Law(
    name="single",
    formula="L = A / D^beta + E",
    factors=("D",),
    parameters=(OFFSET, coefficient("A"), exponent("beta")),
    log_terms=_single,
    residual="linear",
    source="Zhang et al. 2024, arXiv 2402.17193, equation 1",
)
VANILLA = Law(
    name="vanilla",
    formula="L = (A / D^beta + E)^alpha",
    factors=("D",),
    parameters=(
        OFFSET,
        coefficient("A", starts=(0.0, 2.0, 5.0, 10.0)),
        exponent("beta", starts=(0.1, 0.3, 0.6, 1.0)),
        exponent("alpha", starts=(0.5, 1.0, 2.0)),
    ),
    log_terms=_vanilla,
    residual="log",
    source="Lin et al. 2024, arXiv 2402.02314, equation 1",
    sizes_needed=4,
)
