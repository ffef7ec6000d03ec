"""The report's section on what tuning changes outside its task."""

from finetune_scaling.analysis.analysis import Analysis, main_metric
from finetune_scaling.analysis.forgetting import ScoreChange, main_factor, shown_columns
from finetune_scaling.report import page
from finetune_scaling.report.names import FACTOR_NAMES, X_NAMES, human, method_name
from finetune_scaling.report.score_words import column_name, forgetting_lines, told_columns


def forgetting_section(analysis: Analysis) -> str:
    """Sentences and a table for each task; nothing where no evaluator scored the untuned bases."""
    body = "".join(_task(analysis, task) for task in analysis.table.tasks)
    if not body:
        return ""
    return body + page.paragraph(
        "Tuned minus untuned, run by run, then mean and range over the runs. Of losses and of TER a rise is a loss of "
        "what the base could do, of other scores a fall. Copying: what the source, or a document's first sentence, "
        "scores. tables/forgetting.csv has every metric and factor."
    )


def _task(analysis: Analysis, task: str) -> str:
    found, metric = analysis.forgetting, main_metric(analysis, task)
    columns = shown_columns(found, task, metric)
    if not columns:
        return ""
    factor = main_factor(found, task)
    name = FACTOR_NAMES[str(factor)]
    told = told_columns(found, task, metric)
    own = [c for c in found if (c.task, c.factor) == (task, factor) and c.column in columns]
    own.sort(key=lambda c: (columns.index(c.column), analysis.methods.index(c.method), c.finetune_examples, c.x or 0))
    body = page.subheading(task) + page.bullets(forgetting_lines(found, task, metric))
    caption = f"{task}: change against the untuned base, over all values of {name}"
    body += page.table(caption, _header(None), [_row(c) for c in own if c.x is None and c.column in told])
    rest = [_row(c) for c in own if c.x is None and c.column not in told]
    if rest:
        body += page.folded(f"{task}: further columns", page.table(caption, _header(None), rest))
    each = page.table(f"change at each value of {name}", _header(factor), [_row(c) for c in own if c.x is not None])
    return body + page.folded(f"{task}: at each value of {name}", each)


def _header(factor: str | None) -> tuple[str, ...]:
    x = () if factor is None else (X_NAMES[factor],)
    return ("what", "method", "examples", *x, "copying", "untuned", "change", "range", "runs")


def _row(change: ScoreChange) -> tuple:
    x = () if change.x is None else (human(change.x),)
    reach = f"{change.low:+.3g} to {change.high:+.3g}"
    key = (column_name(change.column), method_name(change.method), human(change.finetune_examples), *x)
    return (*key, change.baseline, change.untuned, f"{change.mean:+.3g}", reach, change.runs)
