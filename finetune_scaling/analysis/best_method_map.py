"""Which method has the least loss where: a map over a factor (model size, say) and the number of examples, per task.

At every place of a log grid the fitted laws name a method, and the bootstrap draws say how sure that is: the share of
them that name each method. The borders between the methods are the critical sizes of critical.py; the bands along
them in which fewer than 90 % of the draws agree are where the points do not tell.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.joint_fit import JointFit

AGREEMENT = 0.90
PLACES = 48  # along each side
REACH = (1.15, 2.0)  # how far beyond the measured values the map goes, as factors: x, examples
CHUNK = 8  # columns of x whose draws are held at once


@dataclass(frozen=True)
class MeasuredRange:
    """Where one method was measured: ends of the factor's values and of the numbers of examples."""

    x: tuple[float, float]
    examples: tuple[float, float]

    def holds(self, x: np.ndarray, examples: np.ndarray) -> np.ndarray:
        """Whether places lie inside."""
        inside = (self.x[0] <= x) & (x <= self.x[1])
        return inside & (self.examples[0] <= examples) & (examples <= self.examples[1])


@dataclass(frozen=True)
class BestMethodMap:
    """Which method has the least predicted loss over x [X] and examples [D] of one task, law and factor.

    best [X, D]: index of the method by the fitted laws; shares [M, X, D]: of the draws, those in which each method is
    best; measured: where each was.
    """

    task: str
    law: str
    factor: str
    methods: tuple[str, ...]
    x: np.ndarray
    examples: np.ndarray
    best: np.ndarray
    shares: np.ndarray
    measured: Mapping[str, MeasuredRange]

    @property
    def agreement(self) -> np.ndarray:
        """The share of draws [X, D] that name the same method as the fitted laws."""
        return np.take_along_axis(self.shares, self.best[None], axis=0)[0]

    def confident_share(self) -> float:
        """Of the map's places between all measured values, those where at least AGREEMENT of the draws agree."""
        inside = np.any([own.holds(*self._places()) for own in self.measured.values()], axis=0)
        return float((self.agreement >= AGREEMENT)[inside].mean()) if inside.any() else 0.0

    def table(self) -> pd.DataFrame:
        """One row a place: the method, the share of draws that agree, all shares, whether the method was measured."""
        x, examples = self._places()
        methods = np.array(self.methods)[self.best]
        known = np.zeros(self.best.shape, bool)
        for index, method in enumerate(self.methods):
            known |= (self.best == index) & self.measured[method].holds(x, examples)
        key = {"task": self.task, "law": self.law, "factor": self.factor}
        columns = {"x": x, "finetune_examples": examples, "method": methods, "agreement": self.agreement}
        columns |= {f"share_{m}": share for m, share in zip(self.methods, self.shares, strict=True)}
        columns["inside_measured_range"] = known
        return pd.DataFrame(key | {name: values.ravel() for name, values in columns.items()})

    def _places(self) -> list[np.ndarray]:
        return list(np.meshgrid(self.x, self.examples, indexing="ij"))


def best_method_map(fits: Mapping[str, JointFit], factor: str, rows: pd.DataFrame) -> BestMethodMap | None:
    """The map of one task, law and factor; None with fewer than two methods, or where a law misses its points.

    fits: method -> fit, of one task and law; rows: its settings of that factor, columns method, x, finetune_examples.
    """
    fits = {m: f for m, f in fits.items() if factor in f.factors}
    if len(fits) < 2 or not all(fit.describes for fit in fits.values()):
        return None
    x, examples = (_span(rows[c], reach) for c, reach in zip(("x", "finetune_examples"), REACH, strict=True))
    first = next(iter(fits.values()))
    losses = [fit.predict(factor, x[:, None], examples) for fit in fits.values()]
    return BestMethodMap(
        task=first.task,
        law=first.law.name,
        factor=factor,
        methods=tuple(fits),
        x=x,
        examples=examples,
        best=np.argmin(losses, axis=0),
        shares=_shares(list(fits.values()), factor, x, examples),
        measured={m: _measured(rows[rows["method"] == m]) for m in fits},
    )


def _shares(fits: list[JointFit], factor: str, x: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Of the draws, those in which each of the fits is the least [M, X, D]."""
    parts = []
    for start in range(0, len(x), CHUNK):
        columns = x[start : start + CHUNK, None]
        losses = np.array([fit.predict_replicates(factor, columns, examples) for fit in fits])
        best = np.argmin(losses, axis=0)
        parts.append(np.array([(best == index).mean(axis=0) for index in range(len(fits))]))
    return np.concatenate(parts, axis=1)


def _measured(rows: pd.DataFrame) -> MeasuredRange:
    ends = [(float(rows[c].min()), float(rows[c].max())) for c in ("x", "finetune_examples")]
    return MeasuredRange(*ends)


def _span(values: pd.Series, reach: float) -> np.ndarray:
    return np.geomspace(float(values.min()) / reach, float(values.max()) * reach, PLACES)
