"""Fit of one law to arrays, all parameters together."""

from collections.abc import Mapping

import numpy as np

from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.huber_fit import FitPoints, FitProblem, FitSettings, multistart_fit
from finetune_scaling.laws.fitting.replicate_refits import refit_replicates
from finetune_scaling.laws.forms.declared import Law, ParameterLayout
from finetune_scaling.laws.uncertainty.bootstrap import BootstrapInput, Resampling, resample
from finetune_scaling.laws.uncertainty.variance_components import variance_components


def fit_law(
    law: Law,
    factors: Mapping[str, np.ndarray],
    response: np.ndarray,
    settings: FitSettings | None = None,
    resampling: Resampling | None = None,
    *,
    fixed: Mapping[str, float] | None = None,
    pad_to: int = 0,
) -> FittedLaw:
    """Fit a law to points: factors by name and response, [P] each, in natural units.

    resampling: by default settings are resampled with replacement; fixed: parameters that keep a value in natural
    units; pad_to: minimum number of points that programs are compiled for. Raises DataError where there are fewer
    points than parameters.
    """
    resampling = resampling or Resampling("settings")
    layout, fixed = ParameterLayout(law), fixed or {}
    free = np.array([name not in fixed for name in layout.names])
    count = len(response)
    if count < free.sum():
        raise DataError(f"{count} points to fit, the {law.name} law has {int(free.sum())} parameters; add points")
    points = FitPoints({name: factors[name] for name in law.factors}, response, pad_to=pad_to)
    problem = FitProblem(layout, points, settings or FitSettings())
    starts = layout.starts({p.name: p.to_unconstrained(fixed[p.name]) for p in law.parameters if p.name in fixed})
    (vector,), (objective,) = multistart_fit(problem.batch(free=free), starts)
    predicted, seeds = problem.predictions(vector), np.ones(count)
    scatter = variance_components(response - predicted, np.full(count, np.nan), seeds, (), int(free.sum()))
    weights, losses = resample(BootstrapInput(predicted, response, seeds, ()), scatter, resampling)
    starts = np.tile(vector, (len(weights), 1))
    replicates, _ = refit_replicates(problem.batch(weights, losses, free), starts)
    return FittedLaw(
        **problem.fitted_fields(vector),
        replicates=replicates,
        objective=float(objective),
        fixed=tuple(fixed),
        reasons=dict.fromkeys(fixed, "its factor has one value"),
    )
