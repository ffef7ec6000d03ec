"""Fits of one law over all factors, where the points have all factors of every run."""

from dataclasses import replace

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.fitting.requirements import JACKKNIFE_LEVELS, lack_of_levels
from finetune_scaling.laws.forms.library import ALL_FACTORS
from finetune_scaling.laws.points.columns import FACTORS
from finetune_scaling.laws.uncertainty.bootstrap import Resampling

COLUMNS = {"N": "parameters", "T": "pretrain_tokens", "P": "pet_size", "D": "finetune_examples"}
EXPONENTS = {"N": "alphaN", "T": "alphaT", "P": "alphaP", "D": "beta"}


def fit_all_factors(
    settings_of_points: pd.DataFrame, settings: FitSettings, resampling: Resampling | None, pad_to: int
) -> dict[tuple[str, str], FittedLaw]:
    """Return the fit of every (task, method) that has as many settings as the law has parameters.

    settings_of_points: PointsTable.settings. A setting shared by several factors counts once; a factor with one value,
    or without any (full tuning has no PET size), keeps the exponent zero. Empty where the points lack the columns
    parameters and pretrain_tokens.
    """
    if not {"parameters", "pretrain_tokens"} <= set(settings_of_points):
        return {}
    if resampling is not None and resampling.kind == "seeds":  # the law is fitted to means over seeds
        resampling = replace(resampling, kind="settings")
    found = {}
    for (task, method), rows in settings_of_points.groupby(["task", "method"], sort=False):
        usable = distinct_settings(rows[~rows["held_out"]])
        factors = factors_of(usable)
        fixed = {EXPONENTS[name]: 0.0 for name, values in factors.items() if len(np.unique(values)) < 2}
        parameters = len(ALL_FACTORS.parameters) - len(fixed)
        if len(usable) >= parameters and "beta" not in fixed and len(fixed) < len(EXPONENTS) - 1:
            loss = usable["loss"].to_numpy(float)
            fitted = fit_law(ALL_FACTORS, factors, loss, settings, resampling, fixed=fixed, pad_to=pad_to)
            found[task, method] = replace(fitted, reasons={**fitted.reasons, **exponents_with_few_levels(factors)})
    return found


def exponents_with_few_levels(factors: dict[str, np.ndarray]) -> dict[str, str]:
    """Return why exponents of factors with two values, and E and A with them, are poorly determined, by name."""
    counts = {name: len(np.unique(values)) for name, values in factors.items()}
    few = {name: count for name, count in counts.items() if 1 < count < JACKKNIFE_LEVELS}
    reasons = {EXPONENTS[name]: lack_of_levels(count, f"values of {name}") for name, count in few.items()}
    return reasons | dict.fromkeys(("E", "A"), next(iter(reasons.values()))) if reasons else {}


def distinct_settings(rows: pd.DataFrame) -> pd.DataFrame:
    """Return distinct settings that have all factors; rows: settings of one task and method."""
    own = rows[rows["factor"].isin(FACTORS)].copy()
    own["pet_size"] = own["pet_size"].fillna(1.0).clip(lower=1.0) if "pet_size" in own else 1.0
    columns = list(COLUMNS.values())
    own = own[(own[columns] > 0).all(axis=1)]
    return own.drop_duplicates(columns)


def factors_of(rows: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return the law's factors [P] of such settings."""
    return {name: rows[column].to_numpy(float) for name, column in COLUMNS.items()}
