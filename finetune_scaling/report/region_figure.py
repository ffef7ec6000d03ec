"""The picture of which method to choose: tint, bands where the points do not tell, measured ranges, critical sizes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.best_method_map import AGREEMENT, BestMethodMap
from finetune_scaling.analysis.critical_sizes import CriticalSize, Root
from finetune_scaling.report.law_figure import EXAMPLES
from finetune_scaling.report.names import FACTOR_NAMES, human, method_name
from finetune_scaling.report.picture import Picture, picture_of, series_of
from finetune_scaling.report.plots import (
    axis_label,
    log_x,
    log_y_counts,
    loss_texts,
    method_handles,
    method_series,
    panels,
    setting_texts,
    style,
)

CAPTION = (
    "Tint: the method whose {law} law predicts the least loss; hatched where fewer than 90 % of the "
    "resamples agree. Dashed: where each method was measured, small marks its settings. Diamonds: critical sizes with "
    "their 90 % intervals (dotted where open), hollow where they extrapolate a method beyond its measured data, grey "
    "where a third method is better."
)
TINT, FADED = 0.36, 0.16  # opacity where the draws agree, and where they do not
GREY = "#8a8a8a"


def draw_regions(analysis: Analysis, found: BestMethodMap) -> Picture:
    """The map of one task and factor."""
    rows = analysis.rows(found.task, factor=found.factor)
    picture, grid = panels(1, 1, width=5.2, height=3.6)
    axes = grid[0, 0]
    _draw_tint(axes, found, analysis.methods)
    for place, method in enumerate(found.methods):
        shift = place - (len(found.methods) - 1) / 2  # methods measured alike stay apart
        _draw_measured(axes, found, method, shift, analysis)
    log_x(axes, rows["x"], axis_label(found.factor))
    log_y_counts(axes, EXAMPLES)
    axes.set_xlim(found.x[0], found.x[-1])
    axes.set_ylim(found.examples[0], found.examples[-1])
    for size in analysis.critical:
        if (size.task, size.law, size.factor) == (found.task, found.law, found.factor):
            _draw_critical(axes, size, analysis)
    axes.grid(False)
    picture.legend(handles=method_handles(found.methods, held_out=False), loc="outside lower center", ncols=4)
    return picture


def _draw_tint(axes: Axes, found: BestMethodMap, methods: tuple[str, ...]) -> None:
    colours = np.array([to_rgb(style(m, methods)[0]) for m in found.methods])
    opacity = np.where(found.agreement >= AGREEMENT, TINT, FADED)
    tints = np.concatenate([colours[found.best], opacity[..., None]], axis=-1).transpose(1, 0, 2)
    axes.pcolormesh(found.x, found.examples, tints, shading="nearest", rasterized=True)
    if (found.agreement < AGREEMENT).any():
        unsure = axes.contourf(
            found.x, found.examples, found.agreement.T, levels=[-1, AGREEMENT], colors="none", hatches=["////"]
        )
        unsure.set_edgecolor(GREY)
        unsure.set_linewidth(0)


def _draw_measured(axes: Axes, found: BestMethodMap, method: str, shift: float, analysis: Analysis) -> None:
    rows = analysis.rows(found.task, method, found.factor)
    series, marker = method_series(method, analysis.methods), style(method, analysis.methods)[1]
    x = rows["x"].to_numpy(float) * (found.x[-1] / found.x[0]) ** (0.014 * shift)
    drawn = axes.plot(x, rows["finetune_examples"], marker, color=series.colour, ms=3, ls="none")
    region = found.measured[method]
    reach = 1.04 + 0.02 * shift
    low, high = region.x[0] / reach, region.x[1] * reach
    bottom, top = region.examples[0] / reach**2, region.examples[1] * reach**2
    outline = Rectangle((low, bottom), high - low, top - bottom, fill=False, ls="--", lw=0.9, ec=series.colour)
    axes.add_patch(outline)
    picture = picture_of(axes)
    picture.tag(series, *drawn, outline)
    said = [f"{s}: {v}" for s, v in zip(setting_texts(rows), loss_texts(rows), strict=True)]
    picture.read(axes, series, x, rows["finetune_examples"], said)


def _draw_critical(axes: Axes, size: CriticalSize, analysis: Analysis) -> None:
    """Crossings of a pair, black; grey and without a name where a third method is better than both."""
    fits = {m: f for m, f in analysis.of(size.task, size.law).items() if size.factor in f.factors}
    view = axes.get_ylim()
    for root in size.roots:
        if not view[0] <= root.examples <= view[1]:
            continue
        losses = {m: float(fit.predict(size.factor, size.x, root.examples)) for m, fit in fits.items()}
        leads = losses[size.methods[0]] <= min(losses.values()) + 1e-6
        colour = "black" if leads else GREY
        low, high = (end if end is not None else view[i] for i, end in enumerate((root.low, root.high)))
        dots = ":" if root.low is None or root.high is None else "-"
        drawn = axes.plot([size.x] * 2, [max(low, view[0]), min(high, view[1])], color=colour, lw=1.2, ls=dots)
        drawn += axes.plot(size.x, root.examples, "D", color=colour, ms=5, mfc="white" if root.extrapolated else colour)
        series = series_of("critical sizes", "where two methods cross", GREY)
        picture_of(axes).tag(series, *drawn)
        picture_of(axes).read(axes, series, [size.x], [root.examples], [root_text(size, root)])
        if leads:
            picture_of(axes).tag(series, _name(axes, size, root))


def root_text(size: CriticalSize, root: Root) -> str:
    """A crossing in words: which methods, where, how sure."""
    ends = " to ".join("open" if end is None else human(end) for end in (root.low, root.high))
    where = f"{FACTOR_NAMES[size.factor]} {human(size.x)}"
    reach = f", extrapolates {' and '.join(map(method_name, root.extrapolated))}" if root.extrapolated else ""
    return (
        f"critical size at {where}, {method_name(root.below)} below and {method_name(root.above)} above: "
        f"{human(root.examples)} examples ({ends}){reach}"
    )


def _name(axes: Axes, size: CriticalSize, root: Root):  # type: ignore[no-untyped-def]
    right = size.x > np.sqrt(np.prod(axes.get_xlim()))
    offset = (-7 if right else 7, -11 if "full" not in size.methods else 5)
    return axes.annotate(
        " / ".join(size.methods),
        (size.x, root.examples),
        offset,
        textcoords="offset points",
        fontsize=8,
        ha="right" if right else "left",
    )
