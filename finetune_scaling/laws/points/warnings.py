"""Warnings about rows that look wrong but are used: the report shows them next to the results that depend on them.

Outliers have large robust z-scores: the deviation of the log loss divided by 1.4826 times the median absolute deviation
(Iglewicz and Hoaglin 1993), from the setting's median for seeds, and for settings from a median polish over sizes and
dataset sizes (Tukey 1977). A row is named where both z and the deviation itself are large.
"""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy import stats

from finetune_scaling.laws.points.cells import MAX_LOSS
from finetune_scaling.laws.points.columns import DIGESTS, EVALUATOR_DIGEST, IN_TRAINING, PRECISION, SETTING
from finetune_scaling.laws.points.number_syntax import DECIMAL
from finetune_scaling.laws.points.text import NAMED_ROWS, TextTable

OUTLIER_Z = 8.0
OUTLIER_DEVIATION = 0.1  # of the loss
MIN_SCALE = 0.003  # of log loss, where most deviations are zero
MAX_RATIO = 10.0
MIN_LOSS = 0.01  # nats per token; hardly any text is so predictable
RISE = 0.05  # of log loss, from the fewest to the most examples
COUNTS = {"model": ("parameters", 1e3, 1e14), "pretrain": ("pretraining tokens", 1e3, 1e16)}  # plausible values
POLISH_SWEEPS = 10
MIN_REPEATED = 8  # settings with several seeds, to test whether their noise grows with the loss
SIGNIFICANCE = 0.001  # of that test, Spearman's rho above zero
MIN_LEVELS = 3  # of sizes and of dataset sizes; with fewer, one wrong row cannot be distinguished from the others


def point_warnings(text: TextTable, runs: pd.DataFrame) -> Iterator[str]:
    """Yield sentences that name the rows of `text` that they are about. runs: PointsTable.runs, rows as in `text`."""
    yield from _counts(text, runs)
    yield from _similar_tasks(runs)
    for task, own in runs.groupby("task", sort=False):
        found = (*_mixed_data(text, own), *_mixed_precision(text, own), *_known_examples(text, own))
        yield from (f"{task}: {sentence}" for sentence in found)
    for (task, method), own in runs.groupby(["task", "method"], sort=False):
        for sentence in (*_range(text, own), *_seeds(text, own), *_settings(text, own), *_rises(own), *_growth(own)):
            yield f"{task}, {method}: {sentence}"


def unusable_losses(text: TextTable, runs: pd.DataFrame) -> Iterator[str]:
    """Yield a warning about rows with a loss of which no law can be fitted; see cells.parse_losses."""
    if len(runs):
        losses = ", ".join(text.cells.loc[runs.index[:NAMED_ROWS], "loss"])
        yield (
            f"{text.rows(list(runs.index))}: the loss is {losses}; no fit or figure uses it. Laws need losses above 0, "
            f"and above {MAX_LOSS:g} nats per token a model is worse than a uniform guess: the run diverged."
        )


def _counts(text: TextTable, runs: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where sizes do not count single parameters or tokens."""
    for factor, (what, least, most) in COUNTS.items():
        rows = runs.index[(runs["factor"] == factor) & ~runs["x"].between(least, most)]
        if len(rows):
            yield (
                f"{text.rows(list(rows))}: x is {runs['x'][rows[0]]:g} {what}; it is a raw count, 7B being 7e9. "
                "Exponents are right in any unit, sizes and costs are not."
            )


def _similar_tasks(runs: pd.DataFrame) -> Iterator[str]:
    """Yield a warning about tasks whose names look alike."""
    tasks = pd.Series(runs["task"].unique())
    shapes = tasks.map(_shape)
    for _, alike in tasks.groupby(shapes, sort=False):
        if len(alike) > 1:
            yield (
                f"tasks {', '.join(map(ascii, alike))} differ only in case, blanks, invisible characters or "
                "the form of a number and are analysed separately; if they are one task, give them one name."
            )


def _shape(name: str) -> str:
    """Return what names that look alike have in common: their visible characters without case, or their number."""
    visible = "".join(c for c in name.casefold() if c.isprintable() and not c.isspace())
    return str(float(visible)) if DECIMAL.fullmatch(visible) else visible


def _mixed_data(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where the runs of one task have data of different digests, or not all of them have one."""
    columns = {column: data for column, data in DIGESTS.items() if column in own}
    scored = {name: f"evaluator {found['evaluator']}'s" for name in own if (found := EVALUATOR_DIGEST.fullmatch(name))}
    for column, data in (columns | scored).items():
        digests = own[column][own[column] != ""]
        unknown = own.index[own[column] == ""]
        if column in DIGESTS and 0 < len(unknown) < len(own):
            yield (
                f"{text.rows(list(unknown))}: the {data} data is unknown ({column} is empty), so it may differ from "
                "that of the other rows."
            )
        if digests.nunique() > 1:
            groups = [text.rows(list(rows)) for rows in digests.groupby(digests, sort=False).groups.values()]
            verb = "train" if column in DIGESTS else "evaluate"
            yield (
                f"the {data} data differs between rows ({column}: {'; '.join(groups)}), so their losses are not "
                f"comparable; {verb} these runs on the same data."
            )


def _mixed_precision(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where the runs of one task computed in different precisions."""
    for column in PRECISION:
        known = own[column][own[column] != ""] if column in own else own.index[:0].to_series()
        if known.nunique() > 1:
            groups = (f"{value} in {text.rows(list(rows))}" for value, rows in known.groupby(known).groups.items())
            yield (
                f"{column} differs between rows ({'; '.join(groups)}), and rounding can reorder large models; train "
                f"and evaluate these runs with the same model.{column}."
            )


def _known_examples(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where held-out examples are also in the training data."""
    for column, data in IN_TRAINING.items():
        rows = own.index[own[column] > 0] if column in own else ()
        if len(rows):
            yield (
                f"{text.rows(list(rows))}: up to {own[column].max():.2%} of the {data} examples are also in the "
                f"training data, exactly or nearly ({column}), so losses and scores may be too good."
            )


def _range(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield warnings where all rows are held out, and where losses are equal, tiny or very different."""
    loss = own["loss"]
    low, high, tiny = loss.idxmin(), loss.idxmax(), loss.index[loss < MIN_LOSS]
    if own["held_out"].all():
        yield f"all {len(own)} rows are held out, so no law is fitted; mark the points to fit with 0."
    if len(own) > 1 and loss[low] == loss[high]:
        yield f"the loss is {loss[low]:.6g} in all {len(own)} rows; they determine no exponent."
    if len(tiny):
        yield (
            f"{text.rows(list(tiny))}: the loss is {loss[tiny[0]]:.3g} nats per token, which hardly any text allows; "
            "check its unit, and that its targets were not in the training data."
        )
    if loss[high] > MAX_RATIO * loss[low]:
        yield (
            f"losses range from {loss[low]:.3g} ({text.rows([low])}) to {loss[high]:.3g} nats ({text.rows([high])}), "
            "which is unusual for one method on one task; check their units."
        )


def _seeds(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning for each setting whose seeds differ much more than those of other settings."""
    groups = np.log(own["loss"]).groupby([own[c] for c in SETTING], sort=False)
    several = own[groups.transform("size") > 1]
    deviation = (np.log(own["loss"]) - groups.transform("median"))[several.index]
    for _, wrong in own.loc[_outliers(deviation)].groupby(SETTING, sort=False):
        same = (own[SETTING] == wrong[SETTING].iloc[0]).all(axis=1)
        losses = ", ".join(f"{loss:.3g}" for loss in own.loc[same, "loss"])
        yield (
            f"{text.rows(list(own.index[same]))}: the seeds of one setting have losses {losses}, which differ much "
            "more than those of other settings; the mean is used, check these runs."
        )


def _settings(text: TextTable, own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning for each setting whose loss deviates far from the pattern of its size and dataset size."""
    for _, part in own.groupby("factor", sort=False):
        means = np.log(part.groupby(["x", "finetune_examples"])["loss"].mean().unstack())
        if min(means.shape) < MIN_LEVELS:
            continue
        deviation = _polished(means).stack().dropna()
        for x, examples in _outliers(deviation):
            rows = part.index[(part["x"] == x) & (part["finetune_examples"] == examples)]
            ratio = np.exp(abs(deviation[x, examples])) - 1
            side = "above" if deviation[x, examples] > 0 else "below"
            yield (
                f"{text.rows(list(rows))}: the loss {part['loss'][rows].mean():.3g} is {ratio:.0%} {side} what other "
                "rows of its size and number of examples suggest; it is fitted like any other, check it."
            )


def _rises(own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where losses rise with the number of examples in most curves."""
    means = own.groupby(["factor", "x", "finetune_examples"])["loss"].mean().groupby(["factor", "x"])
    rises = np.log(means.last() / means.first())[means.size() > 1]
    rising = int((rises > RISE).sum())
    if rising * 2 > len(rises):
        yield (
            f"the loss is higher with the most examples than with the fewest in {rising} of {len(rises)} curves; the "
            "laws decrease with the number of examples, so their exponents for it mean little here."
        )


def _growth(own: pd.DataFrame) -> Iterator[str]:
    """Yield a warning where the noise between seeds grows with the loss; a run shared by factors counts once."""
    losses = own.drop_duplicates(["finetune_examples", "seed", "loss"]).groupby(SETTING, sort=False)["loss"]
    settings = pd.DataFrame({"mean": losses.mean(), "variance": losses.var()}).dropna()
    if len(settings) < MIN_REPEATED or (settings.nunique() < 2).any():
        return
    found = stats.spearmanr(settings["mean"], settings["variance"], alternative="greater")
    if found.pvalue < SIGNIFICANCE:
        yield (
            f"the standard deviation between seeds grows with the loss (rank correlation {found.statistic:.2f}), while "
            "a linear residual weights all losses alike; compare a fit with --residual=log."
        )


def _polished(table: pd.DataFrame) -> pd.DataFrame:
    """Return the residuals [X, D] of a median polish, which subtracts row and column medians in turn."""
    for _ in range(POLISH_SWEEPS):
        table = table.sub(table.median(axis=1), axis=0)
        table = table.sub(table.median(axis=0), axis=1)
    return table


def _outliers(deviation: pd.Series) -> list:
    """Return the index of deviations of log loss that are large both absolutely and relative to the others."""
    size = deviation.abs()
    if size.empty:
        return []
    scale = max(1.4826 * float(size.median()), MIN_SCALE)
    return list(size.index[(size > np.log1p(OUTLIER_DEVIATION)) & (size > OUTLIER_Z * scale)])
