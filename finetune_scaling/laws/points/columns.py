"""Columns of a table of points: those it needs, and what a column of scores holds: metric, evaluator, tuned or not.

bleu                        the task's own test sets
few_shot_1.bleu             another evaluator's
few_shot_1.untuned.bleu     the same of the base before tuning
pretraining.loss            an evaluator may have a loss too
"""

import re
from dataclasses import dataclass

METHODS = ("full", "prompt", "lora")
FACTORS = ("model", "pretrain", "pet")
SENSITIVITY_FACTOR = "learning_rate"
ALL_FACTORS = (*FACTORS, SENSITIVITY_FACTOR)
REQUIRED = ("task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out")
SWEPT_SIZE = "swept_size"  # of a sweep of learning rates: its model's parameters; 0 elsewhere, and where not told
SETTING = ["task", "method", "factor", "x", "finetune_examples", SWEPT_SIZE]
CONDITION = (
    "parameters",
    "parameters_non_embedding",
    "pretrain_tokens",
    "pet_size",
    "learning_rate",
    "flops",
    "entropy",
)
RECORD = ("model", "trainable_parameters", "steps", "best_step", "dev_loss")  # a study's further columns

METRIC = re.compile(r"(bleu|sacrebleu|bleurt|chrf|ter|comet|metricx|rouge|exact_match|f1)[\w+.:-]*", re.IGNORECASE)
LOSS = re.compile(r"(loss|perplexity)\w*")
ENTROPY = "entropy"  # of an evaluator's data, whoever is scored
LOWER_IS_BETTER = re.compile(rf"(ter|metricx)[\w+.:-]*|{LOSS.pattern}", re.IGNORECASE)
UNTUNED = "untuned"
MOST_SCORE = 1e6  # of any metric, on either side of zero

_EVALUATOR = re.compile(
    rf"(?P<evaluator>\w[\w-]*)\.(?P<untuned>{UNTUNED}\.)?(?P<metric>({METRIC.pattern})|({LOSS.pattern})|{ENTROPY})",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Column:
    """A column by an evaluator: its name, the evaluator, the metric, and whether it is of the untuned base."""

    name: str
    evaluator: str
    metric: str
    untuned: bool

    @property
    def untuned_name(self) -> str:
        """The column of the same evaluator and metric on the untuned base."""
        return f"{self.evaluator}.{UNTUNED}.{self.metric}"

    @property
    def is_score(self) -> bool:
        """Whether it scores generated text of a tuned model, and is no loss and nothing of the data."""
        return not self.untuned and METRIC.fullmatch(self.metric) is not None


def evaluator_column(name: str) -> Column | None:
    """What an evaluator's column holds; None for every other column, the task's own metrics among them."""
    found = _EVALUATOR.fullmatch(name)
    if found is None or METRIC.fullmatch(name):
        return None
    return Column(name, found["evaluator"], found["metric"], found["untuned"] is not None)


def lower_is_better(name: str) -> bool:
    """Whether less of a column is better: of errors (TER, MetricX), losses and perplexities."""
    column = evaluator_column(name)
    return LOWER_IS_BETTER.fullmatch(column.metric if column else name) is not None
