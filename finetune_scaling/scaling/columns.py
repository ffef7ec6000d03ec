"""What a column of scores in a table of points holds: which metric, by which evaluator, tuned or not.

bleu                        the task's own test sets
few_shot_1.bleu             another evaluator's
few_shot_1.untuned.bleu     the same of the base before tuning
pretraining.loss            an evaluator may have a loss too
"""

import re
from dataclasses import dataclass

METRIC = re.compile(
    r"(bleu|sacrebleu|bleurt|chrf|ter|comet|metricx|rouge|exact_match|token_f1)[\w+.:-]*", re.IGNORECASE
)
LOSS = re.compile(r"(loss|perplexity)\w*")
LOWER_IS_BETTER = re.compile(rf"(ter|metricx)[\w+.:-]*|{LOSS.pattern}", re.IGNORECASE)
UNTUNED = "untuned"
BASELINES = ("copy", "lead_1")

_EVALUATOR = re.compile(
    rf"(?P<evaluator>\w[\w-]*)\.((?P<of>{'|'.join((UNTUNED, *BASELINES))})\.)?"
    rf"(?P<metric>({METRIC.pattern})|({LOSS.pattern}))",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """A column by an evaluator: its name, the evaluator, the metric, and whom it scores.

    of: "" the tuned model, UNTUNED its base, or one of BASELINES.
    """

    name: str
    evaluator: str
    metric: str
    of: str

    def twin(self, of: str) -> str:
        """The column of the same evaluator and metric, of something else."""
        return f"{self.evaluator}.{of}.{self.metric}"

    @property
    def is_loss(self) -> bool:
        """Whether it is a loss or a perplexity, and no score of generated text."""
        return LOSS.fullmatch(self.metric) is not None


def evaluator_column(name: str) -> Column | None:
    """What an evaluator's column holds; None for every other column, the task's own metrics among them."""
    found = _EVALUATOR.fullmatch(name)
    if found is None or METRIC.fullmatch(name):
        return None
    return Column(name, found["evaluator"], found["metric"], found["of"] or "")


def lower_is_better(name: str) -> bool:
    """Whether less of a column is better: of errors (TER, MetricX), losses and perplexities."""
    column = evaluator_column(name)
    return LOWER_IS_BETTER.fullmatch(column.metric if column else name) is not None
