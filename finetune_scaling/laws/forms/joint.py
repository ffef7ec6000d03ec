"""Joint laws of one factor X (model size, pretraining tokens or PET size) and the number of finetuning examples D.

ALL_FACTORS is the multiplicative law of model size N, pretraining tokens T, PET size P and D together.
"""

from finetune_scaling.laws.forms.declared import OFFSET, Law, coefficient, exponent
from finetune_scaling.laws.forms.power import LEARNED_STARTS, POSITIVE_STARTS

SOURCE = "Zhang et al. 2024, arXiv 2402.17193, section 4"
SMALL_EXPONENTS = (0.0, 0.3)  # six parameters: wider grids would make tens of thousands of starts


MULTIPLICATIVE = Law(
    name="multiplicative",
    formula="L = A / (X^alpha * D^beta) + E",
    factors=("X", "D"),
    parameters=(OFFSET, exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["X"] - p["beta"] * x["D"], p["E"]),
    residual="linear",
    source=SOURCE,
    sizes_needed=2,
)
ADDITIVE = Law(
    name="additive",
    formula="L = A / X^alpha + B / D^beta + E",
    factors=("X", "D"),
    parameters=(OFFSET, coefficient("B"), exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["X"], p["B"] - p["beta"] * x["D"], p["E"]),
    residual="linear",
    source=SOURCE,
)
RECTIFIED_JOINT = Law(
    name="rectified_joint",
    formula="L = A / (X^alpha * (Dl + D^beta)) + E",
    factors=("X", "D"),
    parameters=(
        OFFSET,
        coefficient("Dl", starts=LEARNED_STARTS),
        exponent("beta", starts=POSITIVE_STARTS),
        coefficient("A", True),
        exponent("alpha", True, starts=(0.0, 0.5, 1.0)),
    ),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["X"] - xp.logaddexp(p["Dl"], p["beta"] * x["D"]), p["E"]),
    residual="linear",
    source="the rectified law with the model-size term of Zhang et al. 2024, arXiv 2402.17193",
    sizes_needed=3,
)
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
    log_terms=lambda p, x, xp: (
        p["A"] - (p["alphaN"] * x["N"] + p["alphaT"] * x["T"] + p["alphaP"] * x["P"] + p["beta"] * x["D"]),
        p["E"],
    ),
    residual="linear",
    source="the multiplicative law of Zhang et al. 2024, arXiv 2402.17193, with one constant for all factors",
    sizes_needed=2,
)
