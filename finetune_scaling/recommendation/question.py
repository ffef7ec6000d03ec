"""What is asked: how much finetuning data there is, what a run may cost, and how costs are reckoned."""

from dataclasses import dataclass, field

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.points.table import MOST
from finetune_scaling.planning.chips import CHIPS, Chip
from finetune_scaling.planning.prices import Prices
from finetune_scaling.recommendation.budget import Budget, Rates, read_budget

NEXT_RUNS = 3
COUNTS = {"finetune-examples": MOST["finetune_examples"], "sizes": MOST["x"]}  # raw counts, from 1 up to these


@dataclass(frozen=True)
class Question:
    """examples: finetuning examples at hand; budget: of one run, None without limit; rates: FLOPs in time and money.

    further_sizes: models beside the measured ones; tokens_per_example, epochs: for analytic costs, None and 1 where the
    points' column flops tells them; metric: the score to expect, None for the points' first; next_runs: how many runs
    to propose at most, 0 for none.

    Raises ConfigError where a number is not above zero, or no count of examples or parameters that there can be.
    """

    examples: float
    budget: Budget | None = None
    rates: Rates = field(default_factory=lambda: Rates({}))
    further_sizes: tuple[float, ...] = ()
    tokens_per_example: float | None = None
    epochs: float = 1.0
    metric: str | None = None
    next_runs: int = 0

    def __post_init__(self) -> None:
        for name, value in (
            ("finetune-examples", self.examples),
            ("tokens-per-example", self.tokens_per_example),
            ("epochs", self.epochs),
            *(("sizes", size) for size in self.further_sizes),
        ):
            if value is not None and not 0 < value < float("inf"):
                raise ConfigError(f"--{name}={value:g} must be above zero and finite")
            if value is not None and name in COUNTS and not 1 <= value <= COUNTS[name]:
                raise ConfigError(f"--{name}={value:g} must be a count, from 1 to {COUNTS[name]:g}")
        if self.next_runs < 0:
            raise ConfigError(f"next_runs={self.next_runs} must be 0 for none, or how many runs to propose at most")
        if self.tokens_per_example is None and self.epochs != 1:
            raise ConfigError("--epochs goes with --tokens-per-example; give both, or neither")

    @property
    def chip(self) -> Chip | None:
        """The kind of chip that time and money are told for: the budget's, or else the cheapest that has a price."""
        if self.budget is not None and self.budget.chip is not None:
            return self.budget.chip
        return self.rates.cheapest(CHIPS) if self.rates.prices else None

    def affords(self, flops: float) -> bool:
        """Whether a run of so many FLOPs is within the budget."""
        return self.budget is None or flops <= self.budget.flops


def asked(
    examples: float, budget: str | None = None, prices: Prices | None = None, utilisation: float | None = None, **more
) -> Question:
    """A question with its budget as text, as on the command line; more: further fields of Question."""
    rates = Rates(prices or {}) if utilisation is None else Rates(prices or {}, utilisation)
    return Question(examples, read_budget(budget, rates, CHIPS) if budget else None, rates, **more)


def choose_task(tasks: tuple[str, ...], task: str | None) -> str:
    """The named task, or the only one; ConfigError where it is unknown, or several are there and none is named."""
    if task is None and len(tasks) == 1:
        return tasks[0]
    if task is None:
        raise ConfigError(f"the points hold several tasks, name one of {', '.join(tasks)}")
    return configuration.choose({name: name for name in tasks}, task, "--task")


def known_metric(metrics: tuple[str, ...], metric: str | None) -> str | None:
    """The named metric, or the points' first, None where they have none; ConfigError where it is unknown."""
    if metric is None:
        return next(iter(metrics), None)
    if not metrics:
        raise ConfigError(f"--metric={metric}: the points have no metric column; leave it out")
    return configuration.choose({name: name for name in metrics}, metric, "--metric")
