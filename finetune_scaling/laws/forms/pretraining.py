"""Laws of pretraining loss: by model size N at one budget of tokens, and Chinchilla's law of N and tokens D."""

from finetune_scaling.laws.forms.declared import OFFSET, Law, coefficient, exponent

PRETRAINING = Law(
    name="pretraining",
    formula="L = A / N^alpha + E",
    factors=("N",),
    parameters=(OFFSET, coefficient("A"), exponent("alpha")),
    log_terms=lambda p, x, xp: (p["A"] - p["alpha"] * x["N"], p["E"]),
    residual="linear",
    source="Zhang et al. 2024, arXiv 2402.17193, figure 10",
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
