"""How intervals, parameters and shares read in tables and sentences."""

import math
from collections.abc import Callable
from dataclasses import replace

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.uncertainty.intervals import Interval


def interval_text(interval: Interval, show: Callable[[float], str] = "{:.3g}".format) -> str:
    """The ends of a 90 % interval; an open one is said to be so, and so is one above all numbers."""
    if interval.high is not None and math.isinf(interval.high):
        interval = replace(interval, high=None)
    if interval.low is None and interval.high is None:
        return "open on both sides"
    if interval.low is None:
        return f"open to {show(interval.high or 0.0)}"
    return f"{show(interval.low)} to {'open' if interval.high is None else show(interval.high)}"


def parameter_text(fit: JointFit, name: str) -> str:
    """A value with its 90 % bootstrap interval, or that it is unidentified."""
    if not fit.describes:
        return "unidentified, the law does not describe these points"
    text = f"{fit.parameters[name]:.3g} ({interval_text(fit.interval(name))})"
    return text if fit.is_well_determined(name) else f"unidentified, {text}"


def share_text(share: float) -> str:
    """A share of the resamples in percent, never rounded to all or none."""
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    return f"{min(max(100 * share, 1), 99):.0f} %"
