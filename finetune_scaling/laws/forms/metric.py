"""Laws of a score of generated text (BLEU, ROUGE, ...) as a function of the loss L.

With a positive k the score rises as the loss falls, with a negative k it falls, as error rates do.
"""

from finetune_scaling.laws.forms.declared import Law, Parameter, coefficient, exponent

# Scores range to 1 or to 100, so the grid of starts covers both scales.
SCORE_STARTS = (-2.0, 0.0, 2.0, 4.0)
STEEPNESS_STARTS = (-2.0, 0.5, 2.0, 8.0)


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
    residual="linear",
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
    residual="linear",
    source="Llama team 2024, arXiv 2407.21783, section 3.2.1 (a sigmoid of the loss)",
    response="metric",
)
