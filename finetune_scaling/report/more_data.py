"""How much more data would help, as a sentence of the summary: the prediction of `recommend --more-data`."""

from dataclasses import replace

from finetune_scaling.analysis.joint_fits import JointFits
from finetune_scaling.formatting import format_count, format_estimate
from finetune_scaling.recommendation.advisor import advise
from finetune_scaling.recommendation.question import Question


def more_data_line(joint: JointFits, task: str) -> str:
    """Return by how much more examples than the most that were fitted lower the loss; empty where no law shows it.

    The candidate is the one of lowest loss on those examples, at its PET size.
    """
    rows = joint.rows(task)
    fitted = rows[~rows["held_out"] & (rows["factor"] != "learning_rate")]
    if fitted.empty:
        return ""
    question = Question(float(fitted["finetune_examples"].max()), more_data=True)
    without_scores = replace(joint.table, metrics=())  # whose laws take seconds
    fits = JointFits(table=without_scores, settings=joint.settings, fits=joint.fits, skipped=joint.skipped)
    answer = advise(fits, task, question)
    found = {row.multiple: row for row in answer.more_data or () if row.candidate == answer.chosen}
    preferred = answer.preferred
    if preferred is None or preferred.predictors[preferred.decision.chosen.candidate.method].limitations:
        return ""
    twice, tenfold = (format_estimate(found[m].reduction, found[m].reduction_interval) for m in (2, 10))
    return (
        f"{task}: twice the {format_count(question.examples)} examples would lower the loss of {answer.chosen} by "
        f"{twice} nats per token, ten times as many by {tenfold}."
    )
