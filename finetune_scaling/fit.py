"""Fit scaling laws to a table of points: `python -m finetune_scaling.fit --points=points.csv --out=DIR`.

Writes fit.json, tables/*.csv, plots/*.png and *.svg, and report.html. With --law=NAME it fits one law to a CSV whose
columns are the law's factors and loss.
"""

from absl import flags

from finetune_scaling import command
from finetune_scaling.analysis.joint_fits import JOINT_LAWS
from finetune_scaling.command_flags import integer_flag, path_flag
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import local_path, location
from finetune_scaling.laws.fitting.csv_fit import fit_csv
from finetune_scaling.laws.fitting.huber_fit import HUBER_DELTA, FitSettings
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import LAWS, law_named
from finetune_scaling.laws.uncertainty.bootstrap import KINDS, RESAMPLES, Resampling
from finetune_scaling.report.study_report import fit_study, print_summary
from finetune_scaling.tuning.registry import METHODS


def define_flags() -> None:
    """Declare the command's flags."""
    path_flag("points", "a study's directory, or your own CSV or JSONL file", default=None, required=True)
    path_flag("out", "directory for fit.json, tables, plots and report.html", default=None, required=True)
    flags.DEFINE_string("law", None, f"fit only this law to a CSV of its factors and loss: {', '.join(LAWS)}")
    flags.DEFINE_string("by", None, "with --law: fit each value of this column separately")
    flags.DEFINE_list("laws", None, "joint laws of X and D to fit to a table; default: multiplicative,additive")
    flags.DEFINE_enum("bootstrap", None, KINDS, "what the bootstrap resamples; default: both, with --law settings")
    integer_flag("resamples", RESAMPLES, "number of bootstrap replicates")
    flags.DEFINE_bool("profile", False, "also compute profile-likelihood intervals")
    flags.DEFINE_float("huber_delta", HUBER_DELTA, "threshold of the Huber loss")
    flags.DEFINE_enum("residual", None, ["log", "linear"], "residual to fit; default: the law's own")
    flags.DEFINE_list("methods", None, f"valid values of the column method; default: {','.join(METHODS)}")
    flags.DEFINE_enum("size", "total", ["total", "non_embedding"], "which parameters count as model size")


def main() -> None:
    """Fit the laws that the flags select, and write the report or the fit of one law."""
    values = flags.FLAGS
    if not values.huber_delta > 0:
        raise ConfigError(f"--huber-delta={values.huber_delta} must be above zero. Fix: the paper uses {HUBER_DELTA}")
    settings = FitSettings(values.huber_delta, values.residual)
    resampling = Resampling(values.bootstrap or ("settings" if values.law else "both"), values.resamples)
    if values.law is not None:
        for name in ("size", "methods", "laws", "profile"):
            if flags.FLAGS[name].present:
                raise ConfigError(f"--{name} does not apply to --law, which fits its own columns. Fix: remove it")
        law, points, out = law_named(values.law), location(values.points), local_path(values.out, "a fit")
        fit_csv(law, points, out, settings, print, by=values.by, resampling=resampling)
        return
    if values.by is not None:
        raise ConfigError("--by needs --law; a table of points is fitted by task and method. Fix: remove it")
    analysis = fit_study(
        values.points,
        values.out,
        huber_delta=values.huber_delta,
        residual=values.residual,
        size=values.size,
        methods=values.methods,
        laws=JOINT_LAWS if values.laws is None else tuple(map(_joint_law, values.laws)),
        resampling=resampling,
        profile=values.profile,
    )
    print_summary(analysis)


def _joint_law(name: str) -> Law:
    law = law_named(name)
    if set(law.factors) != {"X", "D"}:
        raise ConfigError(
            f"--laws={name}: is a law of {', '.join(law.factors)}; a table of points needs laws of X and D"
        )
    return law


if __name__ == "__main__":
    define_flags()
    command.run(main)
