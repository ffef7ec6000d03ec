"""Two-sided intervals from bootstrap draws."""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.90


@dataclass(frozen=True)
class Interval:
    """Ends of a two-sided 90 % interval; None where that side does not close."""

    low: float | None
    high: float | None


def percentiles(draws: np.ndarray) -> Interval:
    """The interval between the 5 % and 95 % quantiles of draws [R]."""
    low, high = np.quantile(draws, [0.5 - LEVEL / 2, 0.5 + LEVEL / 2])
    return Interval(float(low), float(high))
