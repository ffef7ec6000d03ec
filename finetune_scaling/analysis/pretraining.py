"""Laws of pretraining (figure 10 of arXiv 2402.17193): loss on held-out text per family of base models.

L = A / N^alpha + E over the sizes at a family's full budget of tokens, and L = A / D^beta + E over the tokens D of one
size, where at least MIN_POINTS budgets are available. With so few points a bootstrap is unreliable, so intervals are
profile intervals (uncertainty/profile_region.py).
"""

from dataclasses import dataclass, replace

import pandas as pd

from finetune_scaling.laws.fitting.fitted_law import WIDE, ZERO, FittedLaw, mean_errors
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.fitting.one_stage import fit_law
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import PRETRAINING, SINGLE
from finetune_scaling.laws.uncertainty.bootstrap import MIN_RESAMPLES, Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.laws.uncertainty.profile_region import ProfileRegion, profile_region

MIN_POINTS = 4  # one more than the law has parameters
MINIMAL_BOOTSTRAP = Resampling("settings", resamples=MIN_RESAMPLES)  # not used for intervals
LEAST_SQUARES = FitSettings(huber_delta=1e3, residual="linear")  # so that the profile region contains the estimate
SIZE, TOKENS = "size", "pretrain_tokens"


@dataclass(frozen=True, kw_only=True)
class ProfiledLaw(FittedLaw):
    """A fitted law whose intervals are profile intervals."""

    region: ProfileRegion

    def interval(self, name: str) -> Interval:
        """Return the 90 % profile interval of a parameter."""
        return {"E": self.region.offset, "A": self.region.coefficient}.get(name, self.region.exponent)

    def why_poorly_determined(self, name: str) -> str:
        """Return why the points determine a parameter poorly; empty where they determine it well."""
        interval = self.interval(name)
        if name == "E" and interval.low is None:
            return ZERO
        if interval.low is None or interval.high is None:
            return "its interval is open"
        return WIDE if self.is_wide(name, interval) else ""


@dataclass(frozen=True)
class PretrainingFit:
    """The loss of one family of base models as a function of one factor.

    factor: size or pretrain_tokens; at: what all points share, a number of tokens or a model's name; rows: columns x,
    loss, held_out, by x; fitted: None for the reason in `why`.
    """

    family: str
    factor: str
    at: float | str
    rows: pd.DataFrame
    fitted: ProfiledLaw | None
    why: str = ""

    @property
    def law(self) -> Law:
        """The law of this factor."""
        return PRETRAINING if self.factor == SIZE else SINGLE

    def errors(self) -> dict[str, float]:
        """Return the mean absolute error in nats on fitted and on held-out points."""
        if self.fitted is None:
            return {}
        predicted = self.fitted.predict({self.law.factors[0]: self.rows["x"].to_numpy(float)})
        return mean_errors(predicted, self.rows)


def fit_pretraining(bases: pd.DataFrame) -> list[PretrainingFit]:
    """Fit every family of read_bases' table, over its sizes and then over the tokens of each size that has several."""
    found = []
    for family, own in bases.groupby("family", sort=False):
        full = own[TOKENS].max()
        found.append(_fit(str(family), SIZE, float(full), own[own[TOKENS] == full]))
        models = own.groupby("model", sort=False)
        found += [_fit(str(family), TOKENS, str(model), rows) for model, rows in models if len(rows) > 1]
    return found


def _fit(family: str, factor: str, at: float | str, rows: pd.DataFrame) -> PretrainingFit:
    points = rows[[factor, "loss", "held_out"]].rename(columns={factor: "x"}).sort_values("x", ignore_index=True)
    chosen = points[~points["held_out"]]
    empty = PretrainingFit(family, factor, at, points, None)
    if len(chosen) < MIN_POINTS:
        what = "sizes" if factor == SIZE else "numbers of tokens"
        why = f"{len(chosen)} {what} to fit; {MIN_POINTS} are needed, one more than the law has parameters"
        return replace(empty, why=why)
    x, loss = chosen["x"].to_numpy(float), chosen["loss"].to_numpy(float)
    fitted = fit_law(empty.law, {empty.law.factors[0]: x}, loss, LEAST_SQUARES, MINIMAL_BOOTSTRAP, pad_to=64)
    return replace(empty, fitted=ProfiledLaw(**vars(fitted), region=profile_region(x, loss)))
