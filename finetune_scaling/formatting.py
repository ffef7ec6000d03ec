"""Display names of methods and factors, and how counts, intervals and probabilities are written in text and tables."""

import math
import re
from collections.abc import Callable

from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.laws.uncertainty.intervals import Interval
from finetune_scaling.tuning.registry import METHODS

FACTOR_NAMES = {
    "model": "model size",
    "pretrain": "pretraining tokens",
    "pet": "PET size",
    "learning_rate": "learning rate",
}
X_LABELS = FACTOR_NAMES | {"model": "parameters", "pet": "PET size (prompt length, rank, width)"}
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def method_name(method: str) -> str:
    """Return the display name of a tuning method; methods outside the registry keep their own name."""
    return (METHODS[method].display_name if method in METHODS else None) or method


def format_count(value: float) -> str:
    """Format a count with a unit (1.2B, 84M, 8K, 600); powers of ten from 1e15 on."""
    if not math.isfinite(value):
        return "∞" if value > 0 else "-"
    if value >= 1e15:
        return f"{value:.1e}"
    for size, unit in UNITS:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def format_interval(interval: Interval, show: Callable[[float], str] = "{:.3g}".format) -> str:
    """Format the ends of an interval; an end that is missing or infinite is open."""
    low, high = (None if end is None or math.isinf(end) else show(end) for end in (interval.low, interval.high))
    if low is None:
        return "unbounded" if high is None else f"≤ {high}"
    return f"≥ {low}" if high is None else f"{low} to {high}"


def format_estimate(value: float, interval: Interval, show: Callable[[float], str] = "{:.3g}".format) -> str:
    """Format an estimate with its 90 % interval in brackets."""
    return f"{show(value)} ({format_interval(interval, show)})"


def format_parameter(fit: JointFit, name: str) -> str:
    """Format a fitted parameter as estimate and 90 % interval, and say if it is poorly determined."""
    if not fit.fits_well:
        return "not estimated, the law does not fit these points"
    text = format_estimate(fit.parameters[name], fit.interval(name))
    return text if fit.is_well_determined(name) else f"{text}, poorly determined"


def format_share(share: float) -> str:
    """Format a share of bootstrap replicates in percent; only exact 0 and 1 are shown as 0 % and 100 %."""
    return f"{share:.0%}".replace("%", " %") if share in (0.0, 1.0) else f"{min(max(100 * share, 1), 99):.0f} %"


def score_name(column: str) -> str:
    """Return the display name of an evaluator's column: "loss on pretraining text", "1-shot bleu"."""
    evaluator, _, metric = column.partition(".")
    if shots := re.fullmatch(r"few_shot_(\d+)", evaluator):
        return f"{shots[1]}-shot {metric}"
    if evaluator == "pretraining":
        return f"{metric.replace('_', ' ')} on pretraining text"
    return f"{evaluator.replace('_', '-')} {metric}"
