"""Two-sided intervals from bootstrap draws, and when a value counts as identified."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.forms.declared import Parameter

LEVEL = 0.90
# An offset below this share of the least response is not told from zero.
NEGLIGIBLE = 1e-3
# An exponent is called identified where half its 90 % interval is below the larger of these two, a coefficient or
# offset where half the interval of its logarithm is below log 2.
EXPONENT_MARGIN = 0.02
EXPONENT_RELATIVE_MARGIN = 0.25
LOG_MARGIN = float(np.log(2))
# Above this correlation over the draws two parameters trade off along a valley.
VALLEY = 0.9


@dataclass(frozen=True)
class Interval:
    """Ends of a two-sided 90 % interval; None where that side does not close."""

    low: float | None
    high: float | None


def percentile_interval(draws: np.ndarray) -> Interval:
    """The interval between the 5 % and 95 % quantiles of draws [R]; an end that is not finite does not close."""
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2], method="closest_observation")
    return Interval(*(float(end) if np.isfinite(end) else None for end in (low, high)))


def parameter_interval(parameter: Parameter, value: float, draws: np.ndarray, least_response: float) -> Interval:
    """The interval of a parameter in printed units from its value and draws [R], open below where not told from zero.

    A fitted offset that has vanished is not told from zero, whatever the draws: refits start from above it.
    """
    found = percentile_interval(draws)
    if parameter.is_offset and min(value, found.low or 0.0) < NEGLIGIBLE * least_response:
        return Interval(None, found.high)
    if parameter.is_bounded and None not in (found.low, found.high):
        reach = NEGLIGIBLE * (parameter.high - parameter.low)
        low, high = float(found.low or 0), float(found.high or 0)
        return Interval(low if low > parameter.low + reach else None, high if high < parameter.high - reach else None)
    return found


def largest_half_width(parameter: Parameter, value: float) -> float:
    """Half width up to which a value counts as identified: of the logarithm for a positive parameter."""
    return LOG_MARGIN if parameter.is_log else max(EXPONENT_MARGIN, EXPONENT_RELATIVE_MARGIN * abs(value))


def half_width(parameter: Parameter, interval: Interval) -> float:
    """Half the interval, of the logarithm for a positive parameter; infinite where it does not close."""
    if interval.low is None or interval.high is None:
        return float("inf")
    if parameter.is_log:
        return float(np.log(interval.high / interval.low) / 2) if interval.low > 0 else float("inf")
    return (interval.high - interval.low) / 2


def correlations(column: np.ndarray, others: Mapping[str, np.ndarray]) -> dict[str, float]:
    """How closely draws [R] of one parameter go with those of others, by name: absolute Pearson correlations.

    Those that do not vary are left out.
    """
    varied = {name: other for name, other in others.items() if np.ptp(other) > 0 and np.ptp(column) > 0}
    return {name: abs(float(np.corrcoef(column, other)[0, 1])) for name, other in varied.items()}


def describe_correlation(found: Mapping[str, float]) -> str:
    """The end of a sentence on a parameter: what it trades off with, by its correlations; empty where with nothing."""
    best = max(found, key=lambda name: found[name], default=None)
    if best is None or found[best] < VALLEY:
        return ""
    return f"it trades off with {best.replace('_', ' ')} along a flat valley (correlation {found[best]:.2f})"
