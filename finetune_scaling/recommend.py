"""Recommend a tuning method and sizes for a number of finetuning examples.

    python -m finetune_scaling.recommend --points=points.csv --finetune-examples=40e3 --budget=1e20flop

Prints per task the method, model size and PET size with the lowest expected loss within the budget, their cost, the
probability that the choice is the best one, and its expected regret; or that the points are inconclusive. --next-run
proposes the runs that improve the decision most for their cost; --more-data predicts how much the loss and the metric
improve with 2, 4 and 10 times the examples. --json prints JSON only. Method: docs/guidance.md.
"""

import functools
import sys
from typing import Any

from absl import flags

from finetune_scaling import command
from finetune_scaling.api import fit, read_points
from finetune_scaling.command_flags import config_flag, path_flag, read_config, required
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import write_json_atomically
from finetune_scaling.laws.uncertainty.intervals import LEVEL
from finetune_scaling.planning import prices
from finetune_scaling.planning.default_prices import default_prices
from finetune_scaling.progress import with_seconds
from finetune_scaling.recommendation.advice import CONFIDENT, NEGLIGIBLE, Advice
from finetune_scaling.recommendation.budget import FORMS, UTILISATION
from finetune_scaling.recommendation.candidates import list_candidates
from finetune_scaling.recommendation.question import NEXT_RUNS, Question, choose_task, make_question
from finetune_scaling.recommendation.record import to_record
from finetune_scaling.strict_json import format_json
from finetune_scaling.tuning.registry import METHODS

_PRICES = config_flag("prices", "Config of the prices of chips.", lambda _: prices.Prices, default_prices)
_POINTS = path_flag("points", "CSV of points: points.csv of a study, or your own table.", default=None)
_EXAMPLES = flags.DEFINE_string("finetune_examples", None, "Number of available finetuning examples, as 40000 or 40e3.")
_TASK = flags.DEFINE_string("task", None, "One of the points' tasks; default: all.")
_BUDGET = flags.DEFINE_string("budget", None, f"Budget of one run: {FORMS}.")
_METRIC = flags.DEFINE_string("metric", None, "Metric to predict, such as bleu; default: the points' first.")
_NEXT_RUN = flags.DEFINE_boolean("next_run", False, "Propose the runs that improve the decision most for their cost.")
_MORE_DATA = flags.DEFINE_boolean("more_data", False, "Predict loss and metric on 2, 4 and 10 times the examples.")
_SIZES = flags.DEFINE_list("sizes", None, "Further model sizes to consider, as 1e9,2e9 parameters.")
_METHODS = flags.DEFINE_list("methods", None, f"Method names in the points; default: {','.join(METHODS)}.")
_TOKENS = flags.DEFINE_float("tokens_per_example", None, "Compute costs as 6 N or 4 N per token.")
_EPOCHS = flags.DEFINE_float("epochs", 1.0, "With --tokens-per-example: passes over the examples.")
_UTILISATION = flags.DEFINE_float("utilisation", UTILISATION, "Assumed model FLOPs utilisation (share of the peak).")
_JSON = flags.DEFINE_boolean("json", False, "Print JSON only.")
_OUT = path_flag("out", "Also write the JSON to this file.", default=None)


def main() -> None:
    """Fit the requested tasks and print the recommendations."""
    question = read_question()
    table = read_points(required(_POINTS), methods=_METHODS.value or tuple(METHODS))
    tasks = table.tasks if _TASK.value is None else (choose_task(table.tasks, _TASK.value),)
    for task in tasks:  # costs and budget are checked before the slow fits
        list_candidates(table, task, question)
    show_progress = with_seconds(functools.partial(print, file=sys.stderr, flush=True))
    fitted = fit(table, tasks, progress=show_progress)
    answers = []
    for task in tasks:
        show_progress(f"{task}: comparing the candidates")
        answers.append(fitted.recommend_to(question, task))
    result = {"tasks": [to_record(answer) for answer in answers], "settings": _settings(question, answers)}
    if _OUT.value:
        write_json_atomically(_OUT.value, result)
    print(format_json(result) if _JSON.value else "\n\n".join(map(str, answers)))


def read_question() -> Question:
    """Read the question from the flags."""
    return make_question(
        parse_number(required(_EXAMPLES), "finetune-examples"),
        _BUDGET.value,
        prices.read_prices(read_config(_PRICES)),
        _UTILISATION.value,
        further_sizes=tuple(parse_number(text, "sizes") for text in _SIZES.value or ()),
        tokens_per_example=_TOKENS.value,
        epochs=_EPOCHS.value,
        metric=_METRIC.value,
        next_runs=NEXT_RUNS if _NEXT_RUN.value else 0,
        more_data=_MORE_DATA.value,
    )


def parse_number(text: str, flag: str) -> float:
    """Return the number in a flag's value. Raises ConfigError if it is not a number."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"--{flag}={text} is not a number. Fix: write it as 40000 or 40e3") from None


def _settings(question: Question, answers: list[Advice]) -> dict[str, Any]:
    price = question.rates.prices.get(question.chip.kind) if question.chip else None
    return {
        "interval": LEVEL,
        "confident": CONFIDENT,
        "negligible_regret": NEGLIGIBLE,
        "utilisation": question.rates.utilisation,
        "price": None if price is None else {"usd": price.on_demand, "date": price.date, "source": price.source},
        "tokens_per_example": question.tokens_per_example,
        "epochs": question.epochs,
        "tasks": [answer.candidates.task for answer in answers],
    }


if __name__ == "__main__":
    command.run(main)
