"""One law fitted to one task and method: its parameters, how far they can be trusted, and what they predict."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.fitting.profile import Profile
from finetune_scaling.laws.forms.declared import Law, Layout, Parameter, factor_parameters, predict
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.intervals import (
    Interval,
    correlations,
    describe_correlation,
    half_width,
    largest_half_width,
    parameter_interval,
    percentile_interval,
)
from finetune_scaling.laws.uncertainty.jackknife import JackknifeEstimate, jackknife_estimate
from finetune_scaling.laws.uncertainty.variance_components import VarianceComponents

# A law whose typical miss is above this share of the loss does not describe the points.
DESCRIBES = 0.05


@dataclass(frozen=True)
class OneStage:
    """The same law with all its parameters fitted at once: vector [K], replicates [R, K], objective."""

    vector: np.ndarray
    replicates: np.ndarray
    objective: float


@dataclass(frozen=True)
class JointFit:
    """One law fitted to one task and method.

    vector [K]: as in layout.names; replicates [R, K]: refits to bootstrap replicates; refits [W, K]: with one level
    left out, families: which rows left out what; left_out [W]: mean absolute deviation on the level left out, in nats;
    reasons: name -> why its standard error is unknown; objective: {"stage_1", "stage_2"}; errors: {"fitted"|"held_out":
    {factor: mean absolute deviation in nats}}, held_out_replicates: {factor: the error of held-out settings by every
    replicate, [R]}; points: {factor: number of settings fitted}; components: where the scatter comes from; misfit: root
    mean square of log prediction - log loss over the fitted settings; least_response: of them; profiles: of the fit in
    one stage, by parameter, empty where not asked for.
    """

    task: str
    method: str
    layout: Layout
    vector: np.ndarray
    replicates: np.ndarray
    refits: np.ndarray
    families: tuple[slice, ...]
    left_out: np.ndarray
    reasons: dict[str, str]
    objective: dict[str, float]
    errors: dict[str, dict[str, float]]
    held_out_replicates: dict[str, np.ndarray]
    points: dict[str, int]
    stage_1: tuple[str, ...]
    components: VarianceComponents
    misfit: float
    least_response: float
    resampling: Resampling
    one_stage: OneStage
    profiles: dict[str, Profile]

    @property
    def law(self) -> Law:
        """The law that was fitted."""
        return self.layout.law

    @property
    def factors(self) -> tuple[str, ...]:
        """Factors that have parameters in this fit."""
        return tuple(self.points)

    @property
    def parameters(self) -> dict[str, float]:
        """Printed values of the parameters of the factors that are present."""
        return self._present(self.layout.to_natural(self.vector))

    @property
    def replicate_parameters(self) -> dict[str, np.ndarray]:
        """Printed values [R] of every parameter by every bootstrap draw.

        Draw r of one law and draw r of another were refitted to the same resample of a task and method, and those of
        other tasks and methods to resamples that are independent of it: draws may be compared one by one.
        """
        return self.layout.to_natural(self.replicates)

    @property
    def one_stage_parameters(self) -> dict[str, float]:
        """The same, of the fit in one stage."""
        return self._present(self.layout.to_natural(self.one_stage.vector))

    @property
    def describes(self) -> bool:
        """Whether the law follows the fitted points at all."""
        return self.misfit <= DESCRIBES

    @property
    def why_undescribed(self) -> str:
        """Why nothing can be told from the law, in words; empty where it describes its points."""
        if self.describes:
            return ""
        return f"the law does not describe the points of {self.method} (it misses them by {self.misfit:.0%})"

    def has(self, name: str) -> bool:
        """Whether the parameter belongs to a factor that is present."""
        group = name.partition("_")[2]
        return not group or group in self.points

    def predict(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """Loss at factor value x after finetuning on `examples` examples."""
        return predict(self.law, factor_parameters(self.parameters, factor), {"X": x, "D": examples})

    def predict_replicates(self, factor: str, x: np.ndarray | float, examples: np.ndarray | float) -> np.ndarray:
        """The same by every bootstrap draw: x and examples broadcast to [...] -> losses [R, ...]."""
        x, examples = np.broadcast_arrays(np.asarray(x, float), np.asarray(examples, float))
        natural = self.layout.to_natural(self.replicates.reshape(-1, *(1,) * x.ndim, self.replicates.shape[1]))
        return predict(self.law, factor_parameters(natural, factor), {"X": x, "D": examples})

    def parameter(self, name: str) -> Parameter:
        """The declaration behind a printed name."""
        return self.layout.slots[self.layout.names.index(name)][0]

    def interval(self, name: str) -> Interval:
        """The 90 % bootstrap interval of a parameter, in its printed unit."""
        return parameter_interval(
            self.parameter(name), self.parameters[name], self.replicate_parameters[name], self.least_response
        )

    def one_stage_interval(self, name: str) -> Interval:
        """The same, of the fit in one stage."""
        draws = self.layout.to_natural(self.one_stage.replicates)[name]
        return parameter_interval(self.parameter(name), self.one_stage_parameters[name], draws, self.least_response)

    def held_out_interval(self, factor: str) -> Interval | None:
        """The 90 % interval of the held-out error; None where there is none.

        The error of the fitted settings has none: it is the least that the law can reach, which no draw is below.
        """
        draws = self.held_out_replicates.get(factor)
        return None if draws is None else percentile_interval(draws)

    def jackknife(self, left: str, right: str | None = None) -> JackknifeEstimate:
        """Leave-out spread of a fitted entry (log A for a coefficient), or of the difference left - right of two."""
        names = [left] if right is None else [left, right]
        columns = [self.refits[:, self.layout.names.index(name)] for name in names]
        values = columns[0] if right is None else columns[0] - columns[1]
        return jackknife_estimate(values, self.families, [self.reasons[n] for n in names if n in self.reasons])

    def is_well_determined(self, name: str) -> bool:
        """Whether the points hold the parameter within the stated margins."""
        return not self.why_poorly_determined(name)

    def why_poorly_determined(self, name: str) -> str:
        """Why the points do not hold a parameter, in words; empty where they do."""
        if not self.describes:
            return f"the law does not describe these points (it misses them by {self.misfit:.0%})"
        if name in self.reasons:
            return self.reasons[name]
        parameter, interval = self.parameter(name), self.interval(name)
        allowed = largest_half_width(parameter, self.parameters[name])
        if self._vanishes(name):
            return f"it is not told from zero{self._valley(name)}"
        if half_width(parameter, interval) > allowed:
            return f"its interval is wide{self._valley(name)}"
        if name in self.profiles and half_width(parameter, self.profiles[name].interval) == math.inf:
            return f"its profile likelihood does not close{self._valley(name)}"
        if leaning := describe_correlation(self._correlations(name, [n for n in self.parameters if self._vanishes(n)])):
            return f"{leaning}, which is not told from zero: the interval ends where that is zero"
        # Leaving out levels with few of them is coarse, so it contradicts only where it does so by far.
        error = self.jackknife(name).standard_error
        if error is None or error > allowed:
            return "it moves with one value of a factor or one number of examples left out"
        return ""

    def _present(self, natural: Mapping[str, float]) -> dict[str, float]:
        return {name: value for name, value in natural.items() if self.has(name)}

    def _vanishes(self, name: str) -> bool:
        """Whether an offset is not told from zero."""
        interval = self.interval(name)
        return self.parameter(name).is_offset and interval.low is None and interval.high is not None

    def _valley(self, name: str) -> str:
        """Which other parameter it trades off with, where the draws lie along a valley."""
        group = name.partition("_")[2]
        others = [n for n in self.parameters if n != name and not (group and n.endswith(f"_{group}"))]
        leaning = describe_correlation(self._correlations(name, others))
        return f": {leaning}" if leaning else ""

    def _correlations(self, name: str, others: Sequence[str]) -> dict[str, float]:
        return correlations(self._drawn(name), {other: self._drawn(other) for other in others})

    def _drawn(self, name: str) -> np.ndarray:
        """Draws [R] as they are fitted, but an offset's in its printed unit: about zero its logarithm is anything."""
        if self.parameter(name).is_offset:
            return self.replicate_parameters[name]
        return self.replicates[:, self.layout.names.index(name)]


@dataclass(frozen=True)
class Skipped:
    """A law or a factor that was not fitted, and why."""

    task: str
    method: str
    law: str
    reason: str
