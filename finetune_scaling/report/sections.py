"""The sections of the report. Each declares its text, its tables (from the CSV tables) and its plots."""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from finetune_scaling.analysis.analysis import Analysis, main_metric
from finetune_scaling.analysis.claims import CONFIDENCE
from finetune_scaling.analysis.correlation import FEWEST, RESAMPLES, TRACKING_THRESHOLD, proxy_verdicts
from finetune_scaling.analysis.critical_sizes import SEARCH_RANGE
from finetune_scaling.analysis.forgetting import main_factor, shown_columns
from finetune_scaling.analysis.metric_laws import METRIC_LAWS, MIN_R_SQUARED
from finetune_scaling.analysis.model_selection import DECISIVE
from finetune_scaling.formatting import (
    FACTOR_NAMES,
    format_count,
    format_estimate,
    format_interval,
    format_share,
    method_name,
)
from finetune_scaling.laws.forms.library import ALL_FACTORS, SINGLE
from finetune_scaling.laws.points.columns import FACTORS, SENSITIVITY_FACTOR
from finetune_scaling.report import best_method_plot
from finetune_scaling.report.display import NONE, Table, display, estimates, format_cell, interval_of, intervals
from finetune_scaling.report.finding_plots import (
    draw_all_factors,
    draw_exponents,
    draw_forgetting,
    draw_metrics,
    draw_pretraining,
    shown_parameters,
)
from finetune_scaling.report.law_plots import draw_law, draw_learning_rates, draw_methods, draw_residuals
from finetune_scaling.report.plots import Plot
from finetune_scaling.report.summary import summary
from finetune_scaling.report.warnings import point_warnings

BASELINE = "Copying (a translation's source, a document's first sentence)"
LAW_CAPTION = (
    "Filled: fitted; hollow: held out. Bars: one standard deviation over seeds. Bands: 90 % bootstrap intervals of the "
    "curves. Laws that do not fit a method's points have no curve."
)
RESIDUALS = {"linear": "predicted minus measured loss", "log": "log predicted minus log measured loss"}
Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Section:
    """A section of the report; sections without tables, plots and items are not shown."""

    id: str
    heading: str
    text: Sequence[str] = ()
    items: Sequence[str] = ()
    tables: Sequence[Table] = ()
    plots: Sequence[Plot] = ()
    code: str = ""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to show."""
        return not (self.items or self.tables or self.plots or self.code)


def report_sections(analysis: Analysis, tables: Tables, command: str) -> list[Section]:
    """Return the sections that the analysis has results for, in order; command: how to make the report again."""
    sections = [
        Section("summary", "Summary", items=summary(analysis)),
        Section("warnings", "Warnings", items=point_warnings(analysis)),
        *(build(analysis, tables) for table, build in SECTIONS if table in tables),
        Section(
            "remake",
            "How to make this report again",
            ("All numbers are in fit.json and tables/*.csv (*.tex for LaTeX), plots in plots/*.png, *.svg, *.json.",),
            code=command,
        ),
    ]
    return [section for section in sections if not section.is_empty]


def _tag(analysis: Analysis, task: str) -> str:
    """Return the prefix of a task's plot files."""
    tasks = analysis.table.tasks
    return f"task{tasks.index(task) + 1}" if len(tasks) > 1 else "study"


def _factors(analysis: Analysis, task: str) -> list[str]:
    present = set(analysis.rows(task)["factor"])
    return [factor for factor in FACTORS if factor in present]


def _best_method(analysis: Analysis, tables: Tables) -> Section:
    plots = []
    for task in analysis.table.tasks:
        tag = _tag(analysis, task)
        if "model" in _factors(analysis, task):
            caption = (
                f"Loss against finetuning examples at each model size; curves: {analysis.main_law} law. {LAW_CAPTION}"
            )
            draw = functools.partial(draw_methods, analysis, task)
            plots.append(Plot(f"{tag}-methods", f"{task}: comparison of methods", caption, draw))
        for found in analysis.best_method_maps:
            if found.task == task:
                title = f"{task}: best method over {FACTOR_NAMES[found.factor]}"
                caption = best_method_plot.CAPTION.format(law=found.law)
                draw = functools.partial(best_method_plot.draw_best_method, analysis, found)
                plots.append(Plot(f"{tag}-best-{found.factor}", title, caption, draw))
    columns = ["task", "x", "finetune_examples", "method", "loss", "runner_up", "gap"]
    shown = []
    if "best_measured" in tables:
        caption = "Method of lowest measured loss per model size and dataset size"
        shown = [display(tables["best_measured"], "best_measured", caption, columns, folded=True)]
    return Section("best", "Best method", tables=shown, plots=plots)


def _laws(analysis: Analysis, tables: Tables) -> Section:
    plots = []
    if shown_parameters(analysis):
        caption = (
            f"{analysis.main_law.capitalize()} law. Bars: 90 % bootstrap intervals, with an arrow where they are "
            "unbounded. Pale: poorly determined. Laws that do not fit their points are omitted."
        )
        draw = functools.partial(draw_exponents, analysis)
        plots.append(Plot("exponents", "Exponents and irreducible loss", caption, draw))
    return Section(
        "laws",
        "Laws",
        (
            "L: loss (nats per target token), X: factor, D: number of finetuning examples. Estimates with 90 % "
            "bootstrap intervals.",
            "Two stages (the paper's): E and beta are fitted together with model and pretraining size, then A and "
            "alpha of every factor with E and beta fixed. One stage: all parameters together. Profile: "
            "profile-likelihood interval (--profile). Jackknife: standard error (of log A for A) over left-out factor "
            "levels and dataset sizes. Estimates that disagree should not be relied on.",
        ),
        tables=[
            _parameter_table(analysis, tables, analysis.main_law),
            *(_parameter_details(tables, law) for law in analysis.laws),
        ],
        plots=[*plots, *_law_plots(analysis, [analysis.main_law])],
    )


def _parameter_table(analysis: Analysis, tables: Tables, law: str) -> Table:
    """Return a law's estimates, a row per task and method and a column per parameter."""
    frame = tables["laws"][tables["laws"]["law"] == law]
    texts = [
        text if text == NONE or identified else f"{text} *"
        for text, identified in zip(estimates(frame), frame["identified"], strict=True)
    ]
    names = list(dict.fromkeys(frame["parameter"]))
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for task, method, name, text in zip(frame["task"], frame["method"], frame["parameter"], texts, strict=True):
        rows.setdefault((task, method), {})[name] = text
    cells = [[task, method_name(method), *(own.get(n, NONE) for n in names)] for (task, method), own in rows.items()]
    formula = next((fit.law.formula for fit in analysis.fits_of_law(law)), "")
    return Table(f"{law} law: {formula} (* poorly determined)", ["task", "method", *names], cells, "laws.csv")


def _parameter_details(tables: Tables, law: str) -> Table:
    frame = tables["laws"][tables["laws"]["law"] == law]
    frame = frame.assign(
        two_stage=estimates(frame),
        one_stage=estimates(frame, "one_stage_value", "one_stage_"),
        profile=intervals(frame, "profile_"),
    )
    columns = ["task", "method", "parameter", "two_stage", "one_stage", "profile", "leave_out_standard_error"]
    columns += ["identified", "why"]
    return display(frame, "laws", f"Parameters of the {law} law in detail", columns, folded=True)


def _law_plots(analysis: Analysis, laws: Sequence[str]) -> Iterator[Plot]:
    for task in analysis.table.tasks:
        for law in laws:
            for factor in _factors(analysis, task):
                if _has_law(analysis, task, law, factor):
                    yield Plot(
                        f"{_tag(analysis, task)}-{law}-{factor}",
                        f"{task}: {law} law over {FACTOR_NAMES[factor]}",
                        f"{LAW_CAPTION} Dashed: all points of the curve are held out.",
                        functools.partial(draw_law, analysis, task, law, factor),
                    )


def _has_law(analysis: Analysis, task: str, law: str, factor: str) -> bool:
    if law == SINGLE.name:
        return any((s.task, s.factor) == (task, factor) for s in analysis.curve_fits)
    return any(factor in fit.factors for fit in analysis.fits_by_method(task, law).values())


def _selection(analysis: Analysis, tables: Tables) -> Section:
    verdicts = [
        [task, method_name(method), found.preferred or "none", found.verdict]
        for (task, method), found in analysis.selections.items()
    ]
    columns = ["task", "method", "law", "parameters", "left_out_error", "held_out_error", "aicc", "describes"]
    return Section(
        "selection",
        "Model selection",
        (
            "Each factor level and dataset size is left out once and predicted by the laws fitted to the rest. A law "
            "is preferred if its left-out error is lower by more than the 90 % margin of the difference, or its AICc "
            f"by {DECISIVE:g}, and neither held-out points nor AICc clearly favour the other law. If none is "
            "preferred, both fit the points, but they may extrapolate differently.",
        ),
        tables=[
            Table("Verdicts", ["task", "method", "preferred", "verdict"], verdicts, "selection.csv"),
            display(
                tables["selection"],
                "selection",
                "Mean absolute errors (nats per token) and AICc; best law first",
                columns,
                folded=True,
            ),
        ],
    )


def _errors(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["errors"].assign(held_out=estimates(tables["errors"], "held_out_error", "held_out_"))
    columns = ["task", "factor", "method", "law", "fitted_error", "held_out"]
    caption = "Mean absolute error (nats per token), on held-out settings with its 90 % bootstrap interval"
    plots = [
        Plot(
            f"{_tag(analysis, task)}-residuals",
            f"{task}: residuals of the laws",
            "Predicted minus measured loss of every setting; hollow: held out.",
            functools.partial(draw_residuals, analysis, task),
        )
        for task in analysis.table.tasks
        if any(analysis.fits_by_method(task, law) for law in analysis.laws)
    ]
    return Section("errors", "Prediction errors", tables=[display(frame, "errors", caption, columns)], plots=plots)


def _critical_sizes(analysis: Analysis, tables: Tables) -> Section:
    low, high = map(format_count, SEARCH_RANGE)
    return Section(
        "critical",
        "Critical finetuning sizes",
        (
            f"The dataset size at which two methods have equal loss, searched from {low} to {high} examples, with its "
            "90 % bootstrap interval (unbounded if it includes replicates without this crossing) and the share of "
            "replicates with this crossing (or with none). Jackknife range: over left-out factor levels and dataset "
            "sizes. H and gamma: the paper's closed form D = H X^gamma, valid only if both laws have the same E.",
        ),
        tables=[_critical_table(tables["critical_sizes"], law, law != analysis.main_law) for law in analysis.laws],
    )


def _critical_table(frame: pd.DataFrame, law: str, folded: bool) -> Table:
    rows = [_critical_row(row) for row in frame[frame["law"] == law].to_dict("records")]
    header = ["task", "factor", "X", "methods", "critical size", "90 % interval", "share", "jackknife range"]
    header += ["better method", "extrapolated", "H", "gamma"]
    return Table(f"{law} law", header, rows, "critical_sizes.csv", folded)


def _critical_row(row: dict[str, Any]) -> list[str]:
    interval, jackknife = (interval_of(row[f"{kind}low"], row[f"{kind}high"]) for kind in ("", "leave_out_"))
    forms = [
        NONE if pd.isna(row[n]) else format_estimate(row[n], interval_of(row[f"{n}_low"], row[f"{n}_high"]))
        for n in ("H", "gamma")
    ]
    if not pd.isna(row["finetune_examples"]):
        found = [
            format_count(row["finetune_examples"]),
            format_interval(interval, format_count),
            format_share(row["probability"]),
            format_interval(jackknife, format_count) if jackknife.low else NONE,
            f"{row['better_below']} → {row['better_above']}",
            row["extrapolated_methods"] or NONE,
        ]
    elif row["why"]:
        found = [f"inconclusive: {row['why']}", *[NONE] * 5]
    else:
        share = format_cell("uncrossed_share", row["uncrossed_share"])
        found = ["none", NONE, share, NONE, f"{row['better_everywhere']} everywhere", NONE]
    methods = f"{row['first']} / {row['second']}"
    return [row["task"], FACTOR_NAMES[row["factor"]], format_count(row["x"]), methods, *found, *forms]


def _claims(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["claims"].assign(interval=intervals(tables["claims"]))
    columns = ["where", "difference", "interval", "probability", "margin", "verdict", "why"]
    verdicts = [
        [c.sentence, c.verdict, str(len(c.comparisons)), format_cell("probability", c.probability)]
        for c in analysis.claims
    ]
    return Section(
        "claims",
        "Claims of the paper",
        (
            "Each comparison is a difference that the claim says is above zero. It is supported if the difference is "
            f"above zero in at least {CONFIDENCE:.0%} of the bootstrap replicates, not supported if in at most "
            f"{1 - CONFIDENCE:.0%}, and in both cases exceeds its 90 % jackknife margin; otherwise it is inconclusive. "
            "A claim is supported if every comparison is, and all are true together in at least "
            f"{CONFIDENCE:.0%} of the replicates.",
        ),
        tables=[
            Table("Verdicts", ["claim", "verdict", "comparisons", "all true"], verdicts, "claims.csv"),
            *(
                display(frame[frame["claim"] == c.name], "claims", c.sentence, columns, folded=True)
                for c in analysis.claims
            ),
        ],
    )


def _scores(analysis: Analysis, tables: Tables) -> Section:
    shown, plots = [], []
    for task in analysis.table.tasks:
        metrics = [m for m in analysis.table.metrics if analysis.rows(task)[m].notna().any()]
        if metrics:
            caption = f"{task}: setting of each method with the best test score"
            baseline = analysis.facts.get("baselines", {}).get(task, {})
            known = [f"{m} {baseline[m]:.3g}" for m in metrics if isinstance(baseline.get(m), int | float)]
            caption += f". {BASELINE} scores {', '.join(known)}" if known else ""
            columns = ["method", "factor", "x", "finetune_examples", "loss", *metrics]
            frame = tables["best_runs"]
            shown.append(display(frame[frame["task"] == task], "best_runs", caption, columns))
            plots.append(
                Plot(
                    f"{_tag(analysis, task)}-metrics",
                    f"{task}: scores against loss",
                    "One mark per setting, all factors. Curves with 90 % bands: the law that fits the main metric.",
                    functools.partial(draw_metrics, analysis, task, metrics[:3]),
                )
            )
        if len(analysis.rows(task, factor=SENSITIVITY_FACTOR)):
            plots.append(
                Plot(
                    f"{_tag(analysis, task)}-learning-rate",
                    f"{task}: sensitivity to the learning rate",
                    "A line per model size and dataset size; ringed: its best learning rate. No law is fitted.",
                    functools.partial(draw_learning_rates, analysis, task),
                )
            )
    return Section("scores", "Scores", tables=shown, plots=plots)


def _correlation(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["correlation"]
    frame = frame.assign(r=estimates(frame, "pearson", "pearson_"), rho=estimates(frame, "spearman", "spearman_"))
    verdicts = [
        [found.task, found.metric, found.verdict, found.tally] for found in proxy_verdicts(analysis.correlations)
    ]
    columns = ["task", "metric", "factor", "method", "settings", "r", "pearson_p", "rho", "spearman_p"]
    columns += ["verdict", "why"]
    caption = (
        f"Correlation with the loss over settings (means over seeds); 90 % BCa bootstrap intervals ({RESAMPLES} "
        "replicates); p-values of r = 0 without correction for multiple comparisons"
    )
    return Section(
        "correlation",
        "Correlation of metrics with the loss",
        (
            "A metric tracks the loss for a method and factor if the 90 % interval of Pearson's r is beyond "
            f"{TRACKING_THRESHOLD:g} in the right direction (negative for scores, positive for errors such as TER), "
            "and does not track it if the interval is completely short of that. Otherwise, or with fewer than "
            f"{FEWEST} settings, the verdict is inconclusive. A metric is a proxy for the loss if it tracks the loss "
            "everywhere on a task.",
        ),
        tables=[
            Table("Verdicts", ["task", "metric", "verdict", "comparisons"], verdicts, "correlation.csv"),
            display(frame, "correlation", caption, columns, folded=True),
        ],
    )


def _metric_laws(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["metric_laws"]
    formulas = "; ".join(f"{law.name}: {law.formula} ({law.source})" for law in METRIC_LAWS)
    key = ["task", "metric", "method"]
    columns = [*key, "law", "parameter", "estimate", "identified"]
    columns += ["r_squared", "error", "left_out_error", "held_out_error"]
    first = frame.drop_duplicates(key)
    return Section(
        "metric-laws",
        "Laws of metrics over loss",
        (
            f"M: metric, L: loss (nats per token). {formulas}. A law fits a metric if it explains at least "
            f"{MIN_R_SQUARED:.0%} of the variance over the fitted settings (means over seeds). A law is preferred only "
            "if its error on left-out dataset sizes is lower beyond chance.",
        ),
        tables=[
            display(first, "metric_laws", "Verdicts", [*key, "settings", "verdict"]),
            display(
                frame.assign(estimate=estimates(frame)), "metric_laws", "Parameters and errors", columns, folded=True
            ),
        ],
    )


def _forgetting(analysis: Analysis, tables: Tables) -> Section:
    shown, plots = [], []
    for task in analysis.table.tasks:
        factor = main_factor(analysis.forgetting, task)
        if factor is None:
            continue
        wanted = shown_columns(analysis.forgetting, task, main_metric(analysis, task))
        frame = tables["forgetting"]
        frame = frame[(frame["task"] == task) & (frame["factor"] == factor) & frame["column"].isin(wanted)]
        frame = frame.assign(
            change=[
                f"{mean:+.3g} ({low:+.3g} to {high:+.3g})"
                for mean, low, high in zip(frame["mean"], frame["low"], frame["high"], strict=True)
            ]
        ).sort_values(["column", "method", "finetune_examples"], kind="stable")
        columns = ["column", "method", "finetune_examples", "baseline", "untuned", "change", "runs"]
        caption = f"{task}: tuned minus untuned, over all values of {FACTOR_NAMES[factor]}"
        shown.append(display(frame[frame["x"].isna()], "forgetting", caption, columns))
        caption = f"{task}: tuned minus untuned, at each {FACTOR_NAMES[factor]}"
        shown.append(display(frame[frame["x"].notna()], "forgetting", caption, ["x", *columns], folded=True))
        plots.append(
            Plot(
                f"{_tag(analysis, task)}-forgetting",
                f"{task}: forgetting and transfer",
                f"Tuned minus untuned: mean and range over runs and values of {FACTOR_NAMES[factor]}. Dotted: no "
                "change; shaded: worse than the untuned base model.",
                functools.partial(draw_forgetting, analysis, task),
            )
        )
    text = (
        "Change of scores outside the finetuning task: tuned minus untuned base model, mean and range over runs. An "
        "increase of a loss or of TER, or a decrease of another score, is forgetting.",
    )
    return Section("forgetting", "Forgetting and transfer", text, tables=shown, plots=plots)


def _further_laws(analysis: Analysis, tables: Tables) -> Section:
    others = [law for law in analysis.laws if law != analysis.main_law]
    shown = [_parameter_table(analysis, tables, law) for law in others]
    if "single_laws" in tables:
        frame = tables["single_laws"]
        names = list(analysis.curve_fits[0].parameters)
        frame = frame.assign(**{f"{n}_text": estimates(frame, n, f"{n}_") for n in names})
        columns = ["task", "method", "factor", "x", "points", *(f"{n}_text" for n in names)]
        columns += ["fitted_error", "held_out_error"]
        caption = f"{SINGLE.name} law over dataset size at each factor value: {SINGLE.formula}"
        shown.append(display(frame, "single_laws", caption, columns, folded=True))
    plots = list(_law_plots(analysis, [*others, SINGLE.name]))
    return Section("more", "Further laws", tables=shown, plots=plots)


def _all_factors(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["all_factors"].assign(estimate=estimates(tables["all_factors"]))
    columns = ["task", "method", "parameter", "estimate", "identified", "why", "points"]
    plots = []
    for task in analysis.table.tasks:
        fits = {m: fit for (name, m), fit in analysis.all_factors.items() if name == task and fit.fits_well}
        if fits:
            plots.append(
                Plot(
                    f"{_tag(analysis, task)}-all-factors",
                    f"{task}: law over all factors",
                    "Predicted against measured loss of every setting, with 90 % bootstrap intervals; hollow: held "
                    "out.",
                    functools.partial(draw_all_factors, analysis, task, fits),
                )
            )
    caption = f"{ALL_FACTORS.name}: {ALL_FACTORS.formula}"
    shown = [display(frame, "all_factors", caption, columns)]
    return Section("all-factors", "Law over all factors", tables=shown, plots=plots)


def _pretraining(analysis: Analysis, tables: Tables) -> Section:
    frame = tables["pretraining"]
    frame = frame.assign(
        estimate=estimates(frame),
        reason=[a or b for a, b in zip(frame["why"], frame.get("why_unidentified", frame["why"]), strict=True)],
    )
    columns = ["family", "over", "at", "points", "parameter", "estimate", "fitted_error", "held_out_error", "reason"]
    plot = Plot(
        "pretraining",
        "Pretraining: loss of base models",
        "Curve and band: law with its 90 % interval. Filled: fitted; hollow: held out.",
        functools.partial(draw_pretraining, analysis.pretraining),
    )
    return Section(
        "pretraining",
        "Pretraining",
        (
            "Loss of base models on held-out pretraining text (nats per target token) over parameters N, L = A / "
            "N^alpha + E, and over tokens D at one size, L = A / D^beta + E. Losses at fewer tokens than a run's total "
            "are those of intermediate checkpoints, whose learning rate had not decayed. 90 % profile-likelihood "
            "intervals.",
        ),
        tables=[display(frame, "pretraining", "Laws of pretraining", columns)],
        plots=[plot],
    )


def _data(analysis: Analysis, tables: Tables) -> Section:
    table, settings = analysis.table, analysis.settings
    kinds = sorted({settings.residual_of(fit.law) for fit in analysis.fits.values()})
    residual = " or ".join(f"{kind} ({RESIDUALS[kind]})" for kind in kinds)
    frame = tables["factors"]
    frame = frame.assign(**{c: list(map(_levels, frame[c])) for c in ("x", "finetune_examples")})
    columns = ["task", "method", "factor", "settings", "held_out_settings", "x", "finetune_examples", "mean_seeds"]
    shown = [display(frame, "factors", "Settings by factor", columns)]
    if "entropy" in tables:
        entropy = tables["entropy"].assign(E_text=estimates(tables["entropy"], "E"))
        columns = ["task", "method", "law", "E_text", "entropy"]
        caption = "Irreducible loss E and true entropy (nats per token)"
        shown.append(display(entropy, "entropy", caption, columns))
    return Section(
        "data",
        "Data and settings",
        (
            f"Points: {Path(table.source).name}. Objective: sum of Huber losses with delta {settings.huber_delta:g}; "
            f"residual: {residual}. Model size: {analysis.size.replace('_', '-')} parameters. Settings are means over "
            "seeds. Held-out settings are not fitted.",
        ),
        items=list(map(str, analysis.facts.get("notes", ()))),
        tables=shown,
    )


def _levels(text: str) -> str:
    """Format the levels of a factor; many are given as a range."""
    values = [format_count(float(value)) for value in text.split()]
    return ", ".join(values) if len(values) <= 12 else f"{values[0]} … {values[-1]}"


# The table that each section needs.
SECTIONS: tuple[tuple[str, Callable[[Analysis, Tables], Section]], ...] = (
    ("points", _best_method),
    ("laws", _laws),
    ("selection", _selection),
    ("errors", _errors),
    ("critical_sizes", _critical_sizes),
    ("claims", _claims),
    ("best_runs", _scores),
    ("correlation", _correlation),
    ("metric_laws", _metric_laws),
    ("forgetting", _forgetting),
    ("laws", _further_laws),
    ("all_factors", _all_factors),
    ("pretraining", _pretraining),
    ("factors", _data),
)
