"""The law of pretraining (figure 10 of arXiv 2402.17193): loss on held-out text against model size, per base family.

L = A / N^alpha + E over the sizes at a family's full budget of tokens; and L = A / D^beta + E over the tokens D of one
size, where at least FEWEST budgets were kept. Few points leave a law few degrees of freedom, so bootstrap draws are
spread about the fit by the ratio of Student's to the normal quantile of those degrees.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.scaling.fitting.law_fit import LawFit, fit_law
from finetune_scaling.scaling.fitting.program import FitSettings
from finetune_scaling.scaling.laws.declared import Law
from finetune_scaling.scaling.laws.power import SINGLE
from finetune_scaling.scaling.laws.pretraining import PRETRAINING
from finetune_scaling.scaling.uncertainty.intervals import LEVEL, Interval

FEWEST = 4  # one more than the law has parameters
SIZE, TOKENS = "size", "pretrain_tokens"


@dataclass(frozen=True)
class PretrainingFit:
    """Loss of one family's bases over one factor.

    factor: size or pretrain_tokens; at: what is the same in all points, a number of tokens or a model's name; rows:
    columns x, loss, held_out, by x; fitted: None where `why` says why there is none.
    """

    family: str
    factor: str
    at: float | str
    rows: pd.DataFrame
    fitted: LawFit | None
    why: str = ""

    @property
    def law(self) -> Law:
        """The law that is fitted over this factor."""
        return PRETRAINING if self.factor == SIZE else SINGLE

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Loss at values of the factor; only where there is a fit."""
        return self._fit().predict({self.law.factors[0]: x})

    def predict_draws(self, x: np.ndarray) -> np.ndarray:
        """The same by every draw: x [N] -> losses [R, N]; only where there is a fit."""
        return self._fit().predict_draws({self.law.factors[0]: x})

    def why_unidentified(self, name: str) -> str:
        """Why the points do not hold a parameter, in words; empty where they do."""
        fitted = self._fit()
        offset = fitted.why_unidentified("E")
        if name != "E" and offset:  # from few points any exponent goes with some floor
            return f"it rests on E, which is not identified: {offset}"
        return fitted.why_unidentified(name)

    def interval(self, name: str) -> Interval:
        """The 90 % interval of a parameter; open where it rests on a floor E that the points do not hold."""
        rests = name != "E" and self._fit().why_unidentified("E")
        return Interval(None, None) if rests else self._fit().interval(name)

    def errors(self) -> dict[str, float]:
        """Mean absolute deviation in nats of fitted and of held-out points."""
        if self.fitted is None:
            return {}
        deviation = (self.rows["loss"] - self.predict(self.rows["x"].to_numpy(float))).abs()
        kinds = {"fitted": deviation[~self.rows["held_out"]], "held_out": deviation[self.rows["held_out"]]}
        return {kind: float(values.mean()) for kind, values in kinds.items() if len(values)}

    def _fit(self) -> LawFit:
        if self.fitted is None:
            raise ValueError(f"{self.family}: no law was fitted ({self.why})")
        return self.fitted


def fit_pretraining(bases: pd.DataFrame, settings: FitSettings) -> list[PretrainingFit]:
    """Fits every family of read_bases' table, over its sizes and then over the tokens of each size that has several."""
    found = []
    for family, own in bases.groupby("family", sort=False):
        full = own[TOKENS].max()
        found.append(_fit(family, SIZE, float(full), own[own[TOKENS] == full], settings))
        found += _over_tokens(str(family), own, settings)
    return found


def _over_tokens(family: str, own: pd.DataFrame, settings: FitSettings) -> Iterator[PretrainingFit]:
    for model, rows in own.groupby("model", sort=False):
        if len(rows) > 1:
            yield _fit(family, TOKENS, str(model), rows, settings)


def _fit(family: str, factor: str, at: float | str, rows: pd.DataFrame, settings: FitSettings) -> PretrainingFit:
    points = rows[[factor, "loss", "held_out"]].rename(columns={factor: "x"}).sort_values("x", ignore_index=True)
    chosen = points[~points["held_out"]]
    empty = PretrainingFit(family, factor, at, points, None)
    if len(chosen) < FEWEST:
        what = "sizes" if factor == SIZE else "numbers of tokens"
        return replace(empty, why=f"{len(chosen)} {what} to fit; {FEWEST} are needed, one more than parameters")
    law = empty.law
    fitted = fit_law(
        law, {law.factors[0]: chosen["x"].to_numpy(float)}, chosen["loss"].to_numpy(float), settings, pad_to=64
    )
    return replace(empty, fitted=_spread(fitted))


def _spread(fitted: LawFit) -> LawFit:
    """The fit with its draws spread as its degrees of freedom ask for."""
    degrees = fitted.count - len(fitted.vector)
    ratio = stats.t.ppf(0.5 + LEVEL / 2, degrees) / stats.norm.ppf(0.5 + LEVEL / 2)
    return replace(fitted, draws=fitted.vector + ratio * (fitted.draws - fitted.vector))
