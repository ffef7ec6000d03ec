"""How much more data would help, as a sentence of the summary: the prediction of `recommend --more-data`."""

from dataclasses import replace

from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.formatting import format_count, format_estimate
from finetune_scaling.laws.points.table import PointsTable
from finetune_scaling.recommendation.advisor import advise
from finetune_scaling.recommendation.more_data import MoreData
from finetune_scaling.recommendation.question import Question

MULTIPLES = {2: "twice", 10: "ten times"}


def more_data_line(joint: JointFits, task: str) -> str:
    """Return by how much more examples than the most that were fitted lower the loss; empty where no law predicts it.

    The candidate is the one of lowest loss on those examples, at its PET size.
    """
    rows = joint.rows(task)
    fitted = rows[~rows["held_out"] & (rows["factor"] != "learning_rate")]
    if fitted.empty:
        return ""
    question = Question(float(fitted["finetune_examples"].max()), more_data=True)
    without_scores = replace(joint.table, metrics=())  # whose laws take seconds
    answer = advise(_with_table(joint, without_scores), task, question)
    found = {row.multiple: row for row in answer.more_data or () if row.candidate == answer.chosen}
    if not found:
        return ""
    changes = ", ".join(f"with {name} as many by {_reduction(found[multiple])}" for multiple, name in MULTIPLES.items())
    return f"{task}: more than {format_count(question.examples)} examples lower the loss of {answer.chosen} {changes}."


def _with_table(joint: JointFits, table: PointsTable) -> JointFits:
    return JointFits(table=table, settings=joint.settings, fits=joint.fits, skipped=joint.skipped)


def _reduction(row: MoreData) -> str:
    return format_estimate(row.reduction, row.reduction_interval)
