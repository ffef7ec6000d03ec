"""Names of the factors that studies vary, laws are fitted to, and tables of points have in their column `factor`."""

FACTORS = ("model", "pretrain", "pet")  # model size, pretraining tokens, PET size (prompt length, rank, width)
SENSITIVITY_FACTOR = "learning_rate"  # swept to measure sensitivity; no law is fitted to it
