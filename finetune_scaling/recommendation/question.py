"""The question a recommendation answers: dataset size, budget, and how costs are computed."""

from dataclasses import dataclass, field

from finetune_scaling import configuration
from finetune_scaling.chips import Chip
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.points.table import MAX_COUNTS
from finetune_scaling.planning.prices import Prices
from finetune_scaling.recommendation.budget import UTILISATION, Budget, Rates, read_budget

NEXT_RUNS = 3
FLAG_LIMITS = {"finetune-examples": MAX_COUNTS["finetune_examples"], "sizes": MAX_COUNTS["x"]}


@dataclass(frozen=True)
class Question:
    """A dataset size, a budget and the options of a recommendation.

    examples: number of available finetuning examples; budget: of one run, None for no limit; rates: conversion of FLOPs
    to time and money; further_sizes: model sizes in addition to the measured ones; tokens_per_example, epochs: for
    analytic costs, None and 1 for costs fitted to the points' column flops; metric: the score to predict, None for the
    points' first; next_runs: maximal number of runs to propose; more_data: whether to predict the losses on
    multiples of the examples.

    Raises ConfigError on numbers that are not positive and finite, and on counts outside 1 to FLAG_LIMITS.
    """

    examples: float
    budget: Budget | None = None
    rates: Rates = field(default_factory=lambda: Rates({}))
    further_sizes: tuple[float, ...] = ()
    tokens_per_example: float | None = None
    epochs: float = 1.0
    metric: str | None = None
    next_runs: int = 0
    more_data: bool = False

    def __post_init__(self) -> None:
        for name, value in (
            ("finetune-examples", self.examples),
            ("tokens-per-example", self.tokens_per_example),
            ("epochs", self.epochs),
            *(("sizes", size) for size in self.further_sizes),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name}={value:g} must be above zero and finite")
            if value is not None and name in FLAG_LIMITS and not 1 <= value <= FLAG_LIMITS[name]:
                raise ConfigError(f"--{name}={value:g} must be a count, from 1 to {FLAG_LIMITS[name]:g}")
        if self.next_runs < 0:
            raise ConfigError(f"next_runs={self.next_runs} must be 0 (none) or the maximal number of runs to propose")
        if self.tokens_per_example is None and self.epochs != 1:
            raise ConfigError("--epochs needs --tokens-per-example. Fix: give both or neither")

    @property
    def chip(self) -> Chip | None:
        """The chip to report time and money for: the budget's, or the cheapest one with a price."""
        if self.budget is not None and self.budget.chip is not None:
            return self.budget.chip
        return self.rates.cheapest() if self.rates.prices else None


def make_question(
    examples: float, budget: str | None = None, prices: Prices | None = None, utilisation: float = UTILISATION, **fields
) -> Question:
    """Return a question whose budget is given as text, as on the command line; fields: further fields of Question."""
    rates = Rates(prices or {}, utilisation)
    return Question(examples, read_budget(budget, rates) if budget else None, rates, **fields)


def choose_task(tasks: tuple[str, ...], task: str | None) -> str:
    """Return the named task or the only one; raises ConfigError if it is unknown or ambiguous."""
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task is None:
        raise ConfigError(f"the points have several tasks. Fix: name one of {', '.join(tasks)}")
    return configuration.choose({name: name for name in tasks}, task, "--task")


def choose_metric(metrics: tuple[str, ...], metric: str | None) -> str | None:
    """Return the named metric or the first one (None without metrics); raises ConfigError if it is unknown."""
    if metric is None:
        return next(iter(metrics), None)
    if not metrics:
        raise ConfigError(
            f"--metric={metric}: the points have no metric column. Fix: add the column or remove the flag"
        )
    return configuration.choose({name: name for name in metrics}, metric, "--metric")
