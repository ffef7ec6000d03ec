"""The rectified law of Lin et al. 2024: pretraining counts as Dl "examples" already learned.

Below Dl^(1/beta) examples the curve is flat (the authors' pre-power phase), beyond them it is a power law.
"""

from collections.abc import Sequence
from typing import Any

from finetune_scaling.laws.forms.declared import OFFSET, Law, Values, coefficient, exponent

SEEN_STARTS = (0.0, 2.0, 4.0, 6.0)
# Of the exponent: at zero the law is a constant, and no descent leaves that.
POSITIVE_STARTS = (0.1, 0.3, 0.6, 1.0)


def _rectified(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - xp.logaddexp(p["Dl"], p["beta"] * x["D"]), p["E"]


def _rectified_joint(p: Values, x: Values, xp: Any) -> Sequence[Any]:
    return p["A"] - p["alpha"] * x["X"] - xp.logaddexp(p["Dl"], p["beta"] * x["D"]), p["E"]


RECTIFIED = Law(
    name="rectified",
    formula="L = A / (Dl + D^beta) + E",
    factors=("D",),
    parameters=(
        OFFSET,
        coefficient("A", starts=(0.0, 2.0, 5.0, 8.0)),
        coefficient("Dl", starts=SEEN_STARTS),
        exponent("beta", starts=POSITIVE_STARTS),
    ),
    log_terms=_rectified,
    residual="log",
    source="Lin et al. 2024, arXiv 2402.02314, equation 3",
    sizes_needed=4,
)
RECTIFIED_JOINT = Law(
    name="rectified_joint",
    formula="L = A / (X^alpha * (Dl + D^beta)) + E",
    factors=("X", "D"),
    parameters=(
        OFFSET,
        coefficient("Dl", starts=SEEN_STARTS),
        exponent("beta", starts=POSITIVE_STARTS),
        coefficient("A", True),
        exponent("alpha", True, starts=(0.0, 0.5, 1.0)),
    ),
    log_terms=_rectified_joint,
    residual="linear",
    source="the rectified law with the model-size term of Zhang et al. 2024, arXiv 2402.17193",
    sizes_needed=3,
)
