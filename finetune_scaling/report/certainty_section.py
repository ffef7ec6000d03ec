"""The report's section on how sure each parameter is: the same value by two stages, by one, and by other intervals."""

from collections.abc import Iterator

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.report import page
from finetune_scaling.report.names import method_name
from finetune_scaling.report.phrases import interval_text

WORDS = (
    "Every parameter in four ways. Two stages: E and beta shared by model and pretraining size, then A and alpha of "
    "every factor with these frozen. One stage: all at once. Both have their 90 % interval over the bootstrap. "
    "Profile: the 90 % interval of the profile likelihood in one stage, with --profile. Left out: the standard error "
    "(of log A for A) from leaving out every value of a factor and every number of examples in turn. Where ways "
    "disagree, trust none."
)
HEADER = ("task", "method", "parameter", "two stages", "one stage", "profile", "left out", "identified")


def certainty_section(analysis: Analysis) -> str:
    """A table for each joint law, the main one's open and the others' folded."""
    body = page.paragraph(WORDS)
    for law in analysis.laws:
        rows = [row for fit in analysis.of_law(law) for row in _rows(fit)]
        table = page.table(f"{law} law", HEADER, rows, wrap=("identified",))
        body += page.folded(f"Every parameter of the {law} law", table)
    return body


def _rows(fit: JointFit) -> Iterator[tuple]:
    if not fit.describes:
        yield (fit.task, method_name(fit.method), "all", *("–",) * 4, f"no: {fit.why_undescribed}")
        return
    for name, value in fit.parameters.items():
        together = f"{fit.one_stage_parameters[name]:.3g} ({interval_text(fit.one_stage_interval(name))})"
        profile = interval_text(fit.profiles[name].interval) if name in fit.profiles else "–"
        error, why = fit.jackknife(name).standard_error, fit.why_poorly_determined(name)
        yield (
            fit.task,
            method_name(fit.method),
            name.replace("_", " "),
            f"{value:.3g} ({interval_text(fit.interval(name))})",
            together,
            profile,
            "cannot be told" if error is None else f"{error:.2g}",
            f"no: {why}" if why else "yes",
        )
