"""Maps of the best method: which method has the lowest predicted loss over a factor and the number of examples.

At every point of a log grid the fitted laws select a method, and the share of bootstrap replicates that select each
method measures confidence. The borders between methods are the critical sizes (critical_sizes.py); in the bands along
them where fewer than 90 % of the replicates agree the best method is inconclusive.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit

AGREEMENT = 0.90
GRID = 48  # points along each axis
MARGINS = (1.15, 2.0)  # factors by which the map exceeds the measured values of x and examples


@dataclass(frozen=True)
class BestMethodMap:
    """Which method has the lowest predicted loss over x [X] and examples [D] of one task, law and factor.

    best [X, D]: index of the method by the fitted laws; shares [M, X, D]: shares of replicates in which each method is
    best; measured [M, X, D]: whether a point is within the ranges of x and examples in which the method was measured.
    """

    task: str
    law: str
    factor: str
    methods: tuple[str, ...]
    x: np.ndarray
    examples: np.ndarray
    best: np.ndarray
    shares: np.ndarray
    measured: np.ndarray

    @property
    def agreement(self) -> np.ndarray:
        """The share of replicates [X, D] that select the same method as the fitted laws."""
        return self._of_best(self.shares)

    def confident_share(self) -> float:
        """Return the share of the measured range where at least AGREEMENT of the replicates agree."""
        inside = self.measured.any(axis=0)
        return float((self.agreement >= AGREEMENT)[inside].mean()) if inside.any() else 0.0

    def table(self) -> pd.DataFrame:
        """Return one row per grid point: method, agreement, all shares, whether inside the method's measured range."""
        x, examples = np.meshgrid(self.x, self.examples, indexing="ij")
        methods = np.array(self.methods)[self.best]
        key = {"task": self.task, "law": self.law, "factor": self.factor}
        columns = {"x": x, "finetune_examples": examples, "method": methods, "agreement": self.agreement}
        columns |= {f"share_{m}": share for m, share in zip(self.methods, self.shares, strict=True)}
        columns["inside_measured_range"] = self._of_best(self.measured)
        return pd.DataFrame(key | {name: values.ravel() for name, values in columns.items()})

    def _of_best(self, values: np.ndarray) -> np.ndarray:
        """Return the entries [X, D] of values [M, X, D] that belong to the best method of each point."""
        return np.take_along_axis(values, self.best[None], axis=0)[0]


def best_method_map(fits: Mapping[str, JointFit], factor: str, rows: pd.DataFrame) -> BestMethodMap | None:
    """Return the map of one task, law and factor, or None for fewer than two methods or a law that does not fit.

    fits: by method; rows: settings of that task and factor, columns method, x, finetune_examples.
    """
    fits = {m: f for m, f in fits.items() if factor in f.factors}
    if len(fits) < 2 or not all(fit.fits_well for fit in fits.values()):
        return None
    x, examples = (_span(rows[c], margin) for c, margin in zip(("x", "finetune_examples"), MARGINS, strict=True))
    first = next(iter(fits.values()))
    losses = [fit.predict_loss(factor, x[:, None], examples) for fit in fits.values()]
    replicates = [fit.predict_loss_replicates(factor, x[:, None], examples) for fit in fits.values()]
    best = np.argmin(replicates, axis=0)
    return BestMethodMap(
        task=first.task,
        law=first.law.name,
        factor=factor,
        methods=tuple(fits),
        x=x,
        examples=examples,
        best=np.argmin(losses, axis=0),
        shares=np.array([(best == index).mean(axis=0) for index in range(len(fits))]),
        measured=np.array([_is_measured(rows[rows["method"] == method], x, examples) for method in fits]),
    )


def _is_measured(rows: pd.DataFrame, x: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Return whether each point [X, D] is within the ranges of x and examples of rows."""
    within = [
        (values >= rows[column].min()) & (values <= rows[column].max())
        for column, values in (("x", x), ("finetune_examples", examples))
    ]
    return np.logical_and.outer(*within)


def _span(values: pd.Series, margin: float) -> np.ndarray:
    return np.geomspace(float(values.min()) / margin, float(values.max()) * margin, GRID)
