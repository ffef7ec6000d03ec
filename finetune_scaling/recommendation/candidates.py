"""The candidates of a choice: measured model sizes x methods x measured PET sizes, with their costs."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from finetune_scaling.errors import ConfigError
from finetune_scaling.formatting import format_count, method_name
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.recommendation.cost import Cost, CostModel, analytic_cost, fitted_cost
from finetune_scaling.recommendation.pet_defaults import PetDefault, pet_default
from finetune_scaling.recommendation.question import Question, choose_metric
from finetune_scaling.tuning.registry import METHODS

PET_NAMES = {name: spec.size_field for name, spec in METHODS.items() if spec.size_field is not None}


@dataclass(frozen=True)
class TuningCandidate:
    """A tuning method on a base model of `size` parameters; pet: PET size, None if unknown or none."""

    method: str
    size: float
    pet: float | None = None

    def __str__(self) -> str:
        """Return the candidate as text: LoRA of rank 4 on 1.01M parameters."""
        pet = "" if self.pet is None else f" of {PET_NAMES.get(self.method, 'size')} {self.pet:g}"
        return f"{method_name(self.method)}{pet} on {format_count(self.size)} parameters"


@dataclass(frozen=True)
class CandidateSet:
    """The candidates for a question about one task, and their costs: what is known before any fit.

    metric: the score to predict, if any; rows, pets: settings and PET defaults by method; cost_models: by method,
    without those whose costs are unknown; costs: by candidate, None where unknown.
    """

    task: str
    question: Question
    metric: str | None
    rows: Mapping[str, pd.DataFrame]
    pets: Mapping[str, PetDefault]
    cost_models: Mapping[str, CostModel]
    costs: Mapping[TuningCandidate, Cost | None]

    @property
    def affordable(self) -> list[TuningCandidate]:
        """Candidates within the budget."""
        limit = self.question.budget
        return [c for c, cost in self.costs.items() if limit is None or (cost and cost.flops <= limit.flops)]


def list_candidates(table: PointsTable, task: str, question: Question) -> CandidateSet:
    """Return each method's measured and further model sizes at each of its PET sizes, with their costs.

    Raises ConfigError if needed costs are unknown, no candidate is affordable, or the metric is unknown.
    """
    settings = table.settings[table.settings["task"] == task]
    metrics = tuple(metric for metric in table.metrics if settings[metric].notna().any())
    rows = {str(method): own for method, own in settings.groupby("method", sort=False)}
    pets = {method: pet_default(own) for method, own in rows.items()}
    models: dict[str, CostModel] = {}
    costs: dict[TuningCandidate, Cost | None] = {}
    for method, own in rows.items():
        model = _cost_model(method, own, pets[method], question)
        if model is not None:
            models[method] = model
        for size in _model_sizes(own, pets[method], question):
            for pet in pet_sizes(own, pets[method]):
                cost = None if model is None else model(size, question.examples, pet)
                costs[TuningCandidate(method, size, pet)] = cost
    found = CandidateSet(task, question, choose_metric(metrics, question.metric), rows, pets, models, costs)
    _check_costs(found)
    return found


def _model_sizes(rows: pd.DataFrame, pet: PetDefault, question: Question) -> list[float]:
    """Return the measured sizes, or the one model on which PET sizes were varied, and further sizes."""
    measured = {*rows.loc[rows["factor"] == "model", "x"]}
    if not measured and pet.base is not None:
        measured = {pet.base}
    return sorted(measured | {*question.further_sizes})


def pet_sizes(rows: pd.DataFrame, pet: PetDefault) -> list[float | None]:
    """Return the PET sizes whose losses the law predicts: the measured ones, or the default without a law over them.

    rows: settings of one task and method.
    """
    own = rows[rows["factor"] == "pet"]
    if not (rows["factor"] == "model").any():
        return sorted(set(own["x"])) or [None]
    fitted = own.loc[~own["held_out"], "x"].nunique()
    if pet.size is None or fitted < 2:
        return [pet.size]
    return sorted({*own["x"], pet.size})


def _cost_model(method: str, rows: pd.DataFrame, pet: PetDefault, question: Question) -> CostModel | None:
    if question.tokens_per_example is not None:
        return analytic_cost(method, question.tokens_per_example, question.epochs)
    return fitted_cost(rows, pet)


def _check_costs(found: CandidateSet) -> None:
    question, budget = found.question, found.question.budget
    unknown = [method for method in found.rows if method not in found.cost_models]
    if unknown and (budget or question.next_runs):
        raise ConfigError(
            f"{'--budget' if budget else '--next-run'}: the cost of {', '.join(unknown)} on {found.task} is unknown. "
            "Fix: add a column flops to the points, or give --tokens-per-example"
        )
    if budget is not None and found.costs and not found.affordable:
        flops, cheapest = min((cost.flops, str(c)) for c, cost in found.costs.items() if cost is not None)
        raise ConfigError(
            f"--budget={budget.text} is {budget.flops:.3g} FLOPs; the cheapest candidate on {found.task} ({cheapest}) "
            f"takes {flops:.3g}. Fix: raise the budget or give fewer examples"
        )
