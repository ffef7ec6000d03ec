"""The library of laws, and users' own laws in a file.

Joint laws have one factor X (model size, pretraining tokens or PET size) and the number
of finetuning examples D; laws of pretraining have model size N and tokens D; laws of a metric have the loss L.
"""

import runpy
from dataclasses import replace

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.forms.declared import OFFSET, Law, Parameter, coefficient, exponent

ZHANG = "Zhang et al. 2024, arXiv 2402.17193"
LIN = "Lin et al. 2024, arXiv 2402.02314"

LEARNED_STARTS = (0.0, 2.0, 4.0, 6.0)
# An exponent of zero makes the law a constant, which no descent leaves.
POSITIVE_STARTS = (0.1, 0.3, 0.6, 1.0)
SMALL_EXPONENTS = (0.0, 0.3)  # six parameters: wider grids would make tens of thousands of starts
# Scores range to 1 or to 100, so the grid of starts covers both scales.
SCORE_STARTS = (-2.0, 0.0, 2.0, 4.0)
STEEPNESS_STARTS = (-2.0, 0.5, 2.0, 8.0)

SINGLE = Law(
    name="single",
    formula="L = A / D^beta + E",
    factors=("D",),
    parameters=(OFFSET, coefficient("A"), exponent("beta")),
    log_terms=lambda p, x, xp: (p["A"] - p["beta"] * x["D"], p["E"]),
    source=f"{ZHANG}, equation 1",
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
    source=f"{LIN}, equation 1",
    sizes_needed=4,
)
# Pretraining counts as Dl examples: below Dl^(1/beta) examples the curve is flat (the authors' pre-power phase).
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
    source=f"{LIN}, equation 3",
    sizes_needed=4,
)
MULTIPLICATIVE = Law(
    name="multiplicative",
    formula="L = A / (X^alpha * D^beta) + E",
    factors=("X", "D"),
    parameters=(OFFSET, exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["X"] - p["beta"] * x["D"], p["E"]),
    source=f"{ZHANG}, section 4",
    sizes_needed=2,
)
ADDITIVE = Law(
    name="additive",
    formula="L = A / X^alpha + B / D^beta + E",
    factors=("X", "D"),
    parameters=(OFFSET, coefficient("B"), exponent("beta"), coefficient("A", True), exponent("alpha", True)),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["X"], p["B"] - p["beta"] * x["D"], p["E"]),
    source=f"{ZHANG}, section 4",
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
    source=f"the rectified law with the model-size term of {ZHANG}",
)
# Model size N, pretraining tokens T, PET size P and examples D together.
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
    source=f"the multiplicative law of {ZHANG}, with one constant for all factors",
    sizes_needed=2,
)
CHINCHILLA = Law(
    name="chinchilla",
    formula="L = A / N^alpha + B / D^beta + E",
    factors=("N", "D"),
    parameters=(OFFSET, coefficient("A"), coefficient("B"), exponent("alpha"), exponent("beta")),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["N"], p["B"] - p["beta"] * x["D"], p["E"]),
    residual="log",
    source="Hoffmann et al. 2022, arXiv 2203.15556, equation 10",
)
PRETRAINING = Law(  # at one number of tokens
    name="pretraining",
    formula="L = A / N^alpha + E",
    factors=("N",),
    parameters=(OFFSET, coefficient("A"), exponent("alpha")),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["N"], p["E"]),
    source=f"{ZHANG}, figure 10",
)
# With a positive k a score rises as the loss falls, with a negative k it falls, as error rates do.
EXPONENTIAL = Law(
    name="exponential",
    formula="M = F + C * exp(-k * L)",
    factors=("L",),
    parameters=(
        coefficient("C", starts=(0.0, 3.0, 6.0, 9.0)),
        exponent("k", starts=STEEPNESS_STARTS),
        Parameter("F", SCORE_STARTS, low=0.0, is_offset=True),
    ),
    log_terms=lambda p, x, xp: (p["C"] - p["k"] * xp.exp(x["L"]), p["F"]),
    source="Gadre et al. 2024, arXiv 2403.08540, equation 5 (of errors)",
    response="metric",
)
SIGMOID = Law(
    name="sigmoid",
    formula="M = C / (1 + exp(k * (L - L0)))",
    factors=("L",),
    parameters=(
        coefficient("C", starts=SCORE_STARTS),
        exponent("k", starts=STEEPNESS_STARTS),
        Parameter("L0", starts=(0.5, 1.0, 2.0, 4.0)),
    ),
    log_terms=lambda p, x, xp: (p["C"] - xp.logaddexp(0.0, p["k"] * (xp.exp(x["L"]) - p["L0"])),),
    source="Llama team 2024, arXiv 2407.21783, section 3.2.1 (a sigmoid of the loss)",
    response="metric",
)
_ON_POINTS = (SINGLE, VANILLA, RECTIFIED, MULTIPLICATIVE, ADDITIVE, RECTIFIED_JOINT, ALL_FACTORS)
LAWS = {law.name: law for law in (*_ON_POINTS, CHINCHILLA, PRETRAINING, EXPONENTIAL, SIGMOID)}
SEPARATE_SUFFIX = "_free"


def law_named(name: str) -> Law:
    """Return a law by its name, by NAME_free (separate parameters for each factor), or by FILE.py:NAME (your own).

    Raises ConfigError that lists the known laws, or says what is wrong with the file.
    """
    if ":" in name or name.endswith(".py"):
        return _law_in_file(name)
    base = name.removesuffix(SEPARATE_SUFFIX)
    if base in LAWS and (base == name or any(p.per_factor for p in LAWS[base].parameters)):
        return LAWS[base] if base == name else LAWS[base].without_sharing()
    raise ConfigError(f"law = {name!r} is unknown{suggestion(name, LAWS)}, or give your own law as FILE.py:NAME")


def _law_in_file(name: str) -> Law:
    path, separator, attribute = name.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise ConfigError(f"{name}: give your own law as FILE.py:NAME, where NAME is the Law in that file")
    try:
        law = runpy.run_path(path).get(attribute)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__} while reading it: {error}; fix the file") from error
    if not isinstance(law, Law):
        found = "is missing" if law is None else f"is a {type(law).__name__}, not a Law"
        raise ConfigError(f"{path}: {attribute} {found}; docs/laws.md shows how to declare one")
    return replace(law, file=name)
