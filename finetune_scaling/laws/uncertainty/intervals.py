"""Two-sided 90 % intervals from bootstrap replicates, and when a parameter counts as well determined."""

from dataclasses import dataclass

import numpy as np

from finetune_scaling.laws.forms.declared import Parameter

LEVEL = 0.90
QUANTILES = (0.5 - LEVEL / 2, 0.5 + LEVEL / 2)  # at the ends of an interval
# An offset below this share of the lowest response is not distinguishable from zero.
NEGLIGIBLE = 1e-3
# An exponent is well determined where the half-width of its 90 % interval is below the larger of these two, a
# coefficient or offset where the half-width on the log scale is below log 2.
EXPONENT_MARGIN = 0.02
EXPONENT_RELATIVE_MARGIN = 0.25
LOG_MARGIN = float(np.log(2))


@dataclass(frozen=True)
class Interval:
    """Ends of a two-sided 90 % interval; None where that side is open."""

    low: float | None
    high: float | None


def percentile_interval(replicates: np.ndarray) -> Interval:
    """Return the interval between the 5 % and 95 % quantiles of replicates [R]; an end that is not finite is open."""
    low, high = np.quantile(replicates, QUANTILES, method="closest_observation")
    return Interval(*(float(end) if np.isfinite(end) else None for end in (low, high)))


def interval_ends(replicates: np.ndarray) -> np.ndarray:
    """Return the ends [2, ...] of the 90 % intervals over replicates [R, ...]."""
    return np.quantile(replicates, QUANTILES, axis=0)


def parameter_interval(parameter: Parameter, value: float, replicates: np.ndarray, min_response: float) -> Interval:
    """Return the interval of a parameter in natural units from its estimate and replicates [R].

    It is open at a bound that the parameter is not distinguishable from. That holds for an offset whose estimate
    vanishes, whatever the replicates: refits start above zero.
    """
    found = percentile_interval(replicates)
    if parameter.is_offset and min(value, found.low or 0.0) < NEGLIGIBLE * min_response:
        return Interval(None, found.high)
    if parameter.is_bounded and None not in (found.low, found.high):
        margin = NEGLIGIBLE * (parameter.high - parameter.low)
        low, high = float(found.low or 0), float(found.high or 0)
        return Interval(low if low > parameter.low + margin else None, high if high < parameter.high - margin else None)
    return found


def largest_half_width(parameter: Parameter, value: float) -> float:
    """Return the half-width up to which a parameter is well determined, on the log scale for a positive one."""
    return LOG_MARGIN if parameter.is_log else max(EXPONENT_MARGIN, EXPONENT_RELATIVE_MARGIN * abs(value))


def half_width(parameter: Parameter, interval: Interval) -> float:
    """Return half the interval's width, on the log scale for a positive parameter; infinite where an end is open."""
    if interval.low is None or interval.high is None:
        return float("inf")
    if parameter.is_log:
        return float(np.log(interval.high / interval.low) / 2) if interval.low > 0 else float("inf")
    return (interval.high - interval.low) / 2
