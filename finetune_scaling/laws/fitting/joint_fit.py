"""One joint law fitted to one task and method: its errors, jackknife, one-stage fit and profiles."""

from dataclasses import astuple, dataclass

import numpy as np

from finetune_scaling.laws.fitting.fitted_law import FittedLaw
from finetune_scaling.laws.fitting.profile import Profile
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import Interval, largest_half_width, percentile_interval
from finetune_scaling.laws.uncertainty.jackknife import JackknifeEstimate, jackknife_estimate
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents


@dataclass(frozen=True, kw_only=True)
class JointFit(FittedLaw):
    """A joint law fitted in two stages to one task and method; its objective is the one of stage 2.

    Replicates of two fits to one task and method come from the same resampled points, and those of other tasks and
    methods are independent, so that replicates may be compared one by one.

    jackknife_refits [W, K]: with one factor level left out; groupings: which rows of it belong to which grouping of the
    points; left_out_errors [W]: mean absolute error on the level left out, nats; errors: {"fitted"|"held_out": {factor:
    mean absolute error, nats}}; held_out_replicates: factor -> held-out error [R] by replicate; points_by_factor:
    number of settings fitted; components: sources of the scatter; profiles: by parameter of the one-stage fit, empty
    where not asked for.
    """

    task: str
    method: str
    jackknife_refits: np.ndarray
    groupings: tuple[slice, ...]
    left_out_errors: np.ndarray
    objective_stage_1: float
    errors: dict[str, dict[str, float]]
    held_out_replicates: dict[str, np.ndarray]
    points_by_factor: dict[str, int]
    stage_1: tuple[str, ...]
    components: VarianceComponents
    resampling: Resampling
    one_stage: FittedLaw
    profiles: dict[str, Profile]

    @property
    def lack_of_fit(self) -> str:
        """Why no estimates are reported; empty where the law fits its points."""
        if self.fits_well:
            return ""
        return f"the law does not fit the points of {self.method} (relative error {self.log_rmse:.0%})"

    def predict_loss(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """Return the loss at a factor's value x after finetuning on that number of examples, nats per token."""
        return self.predict({"X": x, "D": examples}, factor)

    def predict_loss_replicates(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """Return the losses [R, ...] of every bootstrap replicate; x and examples broadcast to [...]."""
        return self.predict_replicates({"X": x, "D": examples}, factor)

    def held_out_interval(self, factor: str) -> Interval | None:
        """Return the 90 % interval of the held-out error; None where nothing is held out.

        The error on the fitted settings has no interval: it is the lowest that the law can reach.
        """
        replicates = self.held_out_replicates.get(factor)
        return None if replicates is None else percentile_interval(replicates)

    def jackknife(self, left: str, right: str | None = None) -> JackknifeEstimate:
        """Return the jackknife standard error of a fitted entry (log A for a coefficient), or of left - right."""
        names = [left] if right is None else [left, right]
        columns = [self.jackknife_refits[:, self.layout.names.index(name)] for name in names]
        values = columns[0] if right is None else columns[0] - columns[1]
        return jackknife_estimate(values, self.groupings, [self.reasons[n] for n in names if n in self.reasons])

    def why_poorly_determined(self, name: str) -> str:
        """Return why the points determine a parameter poorly; empty where they determine it well."""
        if why := super().why_poorly_determined(name):
            return why
        if name in self.profiles and None in astuple(self.profiles[name].interval):
            return "its profile likelihood interval is open" + self._correlated_with(name)
        # A jackknife over few levels is coarse, so only a standard error beyond the allowed half-width contradicts.
        error = self.jackknife(name).standard_error
        if error is None or error > largest_half_width(self.parameter(name), self.parameters[name]):
            return "it changes when one value of a factor or one number of examples is left out"
        return ""
