"""The law of pretraining (figure 10 of arXiv 2402.17193): loss on held-out text against model size, per base family.

L = A / N^alpha + E over the sizes at a family's full budget of tokens; and L = A / D^beta + E over the tokens D of one
size, where at least FEWEST budgets were kept. So few points are no matter for a bootstrap: intervals are profile
intervals (uncertainty/region.py).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.one_stage import LawFit, fit_law
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.power import SINGLE
from finetune_scaling.laws.forms.pretraining import PRETRAINING
from finetune_scaling.laws.uncertainty.bootstrap import FEWEST_RESAMPLES, Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval, half_width, largest_half_width
from finetune_scaling.laws.uncertainty.profile_region import ProfileRegion, profile_region

FEWEST = 4  # one more than the law has parameters
FEW_RESAMPLES = Resampling("settings", resamples=FEWEST_RESAMPLES)  # no interval here is made of them
LEAST_SQUARES = FitSettings(huber_delta=1e3, residual="linear")  # as the region is, so that it holds the value
SIZE, TOKENS = "size", "pretrain_tokens"


@dataclass(frozen=True)
class PretrainingFit:
    """Loss of one family's bases over one factor.

    factor: size or pretrain_tokens; at: what is the same in all points, a number of tokens or a model's name; rows:
    columns x, loss, held_out, by x; fitted, region: None where `why` says why there is none.
    """

    family: str
    factor: str
    at: float | str
    rows: pd.DataFrame
    fitted: LawFit | None
    why: str = ""
    region: ProfileRegion | None = None

    @property
    def law(self) -> Law:
        """The law that is fitted over this factor."""
        return PRETRAINING if self.factor == SIZE else SINGLE

    def predict(self, x: np.ndarray) -> np.ndarray:
        """Loss at values of the factor; only where there is a fit."""
        return self._fit().predict({self.law.factors[0]: x})

    def band(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ends of the 90 % profile intervals of the loss at x [N]; only where there is a fit."""
        return self._region().predictions(x)

    def interval(self, name: str) -> Interval:
        """The 90 % profile interval of a parameter; an end that is None does not close."""
        found = self._region()
        return {"E": found.floor, "A": found.coefficient}.get(name, found.exponent)

    def why_poorly_determined(self, name: str) -> str:
        """Why the points do not hold a parameter, in words; empty where they do."""
        interval = self.interval(name)
        if name == "E" and interval.low is None:
            return "it is not told from zero"
        if interval.low is None or interval.high is None:
            return "its interval does not close"
        parameter = next(p for p in self.law.parameters if p.name == name)
        value = self._fit().parameters[name]
        return "its interval is wide" if half_width(parameter, interval) > largest_half_width(parameter, value) else ""

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

    def _region(self) -> ProfileRegion:
        if self.region is None:
            raise ValueError(f"{self.family}: no law was fitted ({self.why})")
        return self.region


def fit_pretraining(bases: pd.DataFrame) -> list[PretrainingFit]:
    """Fits every family of read_bases' table, over its sizes and then over the tokens of each size that has several."""
    found = []
    for family, own in bases.groupby("family", sort=False):
        full = own[TOKENS].max()
        found.append(_fit(family, SIZE, float(full), own[own[TOKENS] == full]))
        found += _over_tokens(str(family), own)
    return found


def _over_tokens(family: str, own: pd.DataFrame) -> Iterator[PretrainingFit]:
    for model, rows in own.groupby("model", sort=False):
        if len(rows) > 1:
            yield _fit(family, TOKENS, str(model), rows)


def _fit(family: str, factor: str, at: float | str, rows: pd.DataFrame) -> PretrainingFit:
    points = rows[[factor, "loss", "held_out"]].rename(columns={factor: "x"}).sort_values("x", ignore_index=True)
    chosen = points[~points["held_out"]]
    empty = PretrainingFit(family, factor, at, points, None)
    if len(chosen) < FEWEST:
        what = "sizes" if factor == SIZE else "numbers of tokens"
        return replace(empty, why=f"{len(chosen)} {what} to fit; {FEWEST} are needed, one more than parameters")
    law = empty.law
    x, loss = chosen["x"].to_numpy(float), chosen["loss"].to_numpy(float)
    fitted = fit_law(law, {law.factors[0]: x}, loss, LEAST_SQUARES, FEW_RESAMPLES, pad_to=64)
    return replace(empty, fitted=fitted, region=profile_region(x, loss))
