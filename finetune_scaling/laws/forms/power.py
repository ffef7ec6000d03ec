"""Laws of the number of finetuning examples D.

In the rectified law of Lin et al. 2024 pretraining counts as Dl examples: below Dl^(1/beta) examples the curve is flat
(the authors' pre-power phase), beyond them it is a power law.
"""

from finetune_scaling.laws.forms.declared import OFFSET, Law, coefficient, exponent

LEARNED_STARTS = (0.0, 2.0, 4.0, 6.0)
# An exponent of zero makes the law a constant, which no descent leaves.
POSITIVE_STARTS = (0.1, 0.3, 0.6, 1.0)


SINGLE = Law(
    name="single",
    formula="L = A / D^beta + E",
    factors=("D",),
    parameters=(OFFSET, coefficient("A"), exponent("beta")),
    log_terms=lambda p, x, xp: (p["A"] - p["beta"] * x["D"], p["E"]),
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
        exponent("beta", starts=POSITIVE_STARTS),
        exponent("alpha", starts=(0.5, 1.0, 2.0)),
    ),
    log_terms=lambda p, x, xp: (p["alpha"] * xp.logaddexp(p["A"] - p["beta"] * x["D"], p["E"]),),
    residual="log",
    source="Lin et al. 2024, arXiv 2402.02314, equation 1",
    sizes_needed=4,
)
RECTIFIED = Law(
    name="rectified",
    formula="L = A / (Dl + D^beta) + E",
    factors=("D",),
    parameters=(
        OFFSET,
        coefficient("A", starts=(0.0, 2.0, 5.0, 8.0)),
        coefficient("Dl", starts=LEARNED_STARTS),
        exponent("beta", starts=POSITIVE_STARTS),
    ),
    log_terms=lambda p, x, xp: (p["A"] - xp.logaddexp(p["Dl"], p["beta"] * x["D"]), p["E"]),
    residual="log",
    source="Lin et al. 2024, arXiv 2402.02314, equation 3",
    sizes_needed=4,
)
