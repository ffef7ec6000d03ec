"""The map of the best method over a factor and dataset size, with measured ranges and critical sizes."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgb
from matplotlib.patches import Rectangle

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.analysis.best_method_map import AGREEMENT, BestMethodMap
from finetune_scaling.analysis.critical_sizes import CriticalSize, Root
from finetune_scaling.formatting import FACTOR_NAMES, X_LABELS, format_count, format_estimate, method_name
from finetune_scaling.report.plots import (
    EXAMPLES,
    ReportFigure,
    add_legend,
    add_tooltips,
    figure_name,
    label_counts,
    log_x,
    loss_texts,
    panels,
    setting_texts,
    style,
)

CAPTION = (
    "Tint: the method whose {law} law predicts the lowest loss; hatched where fewer than 90 % of the bootstrap "
    "replicates agree. Dashed: range in which each method was measured, with its settings as small marks. Diamonds: "
    "critical sizes with 90 % intervals (dotted if open); hollow if a method is extrapolated, grey if a third method "
    "is better."
)
TINT, FADED = 0.36, 0.16  # opacity where replicates agree, and where they do not
GREY = "#8a8a8a"


def draw_best_method(analysis: Analysis, task: str, found: BestMethodMap) -> ReportFigure:
    """Draw a map of one task."""
    rows = analysis.rows(task, factor=found.factor)
    figure, (axes,) = panels(1, width=5.2, height=3.6)
    _draw_tint(axes, found, analysis.methods)
    for index, method in enumerate(found.methods):
        offset = index - (len(found.methods) - 1) / 2  # separates methods with the same settings
        _draw_measured(axes, found, method, offset, analysis)
    log_x(axes, rows["x"], X_LABELS[found.factor])
    axes.set_yscale("log")
    axes.set_ylabel(EXAMPLES)
    label_counts(axes.yaxis)
    axes.set_xlim(found.x[0], found.x[-1])
    axes.set_ylim(found.examples[0], found.examples[-1])
    for size in analysis.critical_sizes:
        if (size.task, size.law, size.factor) == (found.task, found.law, found.factor):
            _draw_critical_size(axes, size, analysis)
    axes.grid(False)
    add_legend(figure, found.methods, held_out=False)
    return figure


def _draw_tint(axes: Axes, found: BestMethodMap, methods: tuple[str, ...]) -> None:
    colours = np.array([to_rgb(style(m, methods)[0]) for m in found.methods])
    opacity = np.where(found.agreement >= AGREEMENT, TINT, FADED)
    tints = np.concatenate([colours[found.best], opacity[..., None]], axis=-1).transpose(1, 0, 2)
    axes.pcolormesh(found.x, found.examples, tints, shading="nearest", rasterized=True)
    if (found.agreement < AGREEMENT).any():
        hatched = axes.contourf(
            found.x, found.examples, found.agreement.T, levels=[-1, AGREEMENT], colors="none", hatches=["////"]
        )
        hatched.set_edgecolor(GREY)
        hatched.set_linewidth(0)


def _draw_measured(axes: Axes, found: BestMethodMap, method: str, offset: float, analysis: Analysis) -> None:
    rows = analysis.rows(found.task, method, found.factor)
    colour, marker = style(method, analysis.methods)
    x = rows["x"].to_numpy(float) * (found.x[-1] / found.x[0]) ** (0.014 * offset)
    axes.plot(x, rows["finetune_examples"], marker, color=colour, ms=3, ls="none")
    margin = 1.04 + 0.02 * offset
    low, high = rows["x"].min() / margin, rows["x"].max() * margin
    bottom, top = rows["finetune_examples"].min() / margin**2, rows["finetune_examples"].max() * margin**2
    axes.add_patch(Rectangle((low, bottom), high - low, top - bottom, fill=False, ls="--", lw=0.9, ec=colour))
    texts = [f"{s}: {v}" for s, v in zip(setting_texts(rows), loss_texts(rows), strict=True)]
    add_tooltips(axes, x, rows["finetune_examples"], texts)


def _draw_critical_size(axes: Axes, size: CriticalSize, analysis: Analysis) -> None:
    """Draw the crossings of two methods: black, or grey and without a label if a third method is better."""
    fits = {m: f for m, f in analysis.fits_by_method(size.task, size.law).items() if size.factor in f.factors}
    view = axes.get_ylim()
    for root in size.roots:
        if not view[0] <= root.examples <= view[1]:
            continue
        losses = {m: float(fit.predict_loss(size.factor, size.x, root.examples)) for m, fit in fits.items()}
        best = losses[size.methods[0]] <= min(losses.values()) + 1e-6
        colour = "black" if best else GREY
        ends = (root.interval.low, root.interval.high)
        low, high = (end if end is not None else view[i] for i, end in enumerate(ends))
        dots = ":" if None in ends else "-"
        axes.plot([size.x] * 2, [max(low, view[0]), min(high, view[1])], color=colour, lw=1.2, ls=dots)
        axes.plot(size.x, root.examples, "D", color=colour, ms=5, mfc="white" if root.extrapolated else colour)
        add_tooltips(axes, [size.x], [root.examples], [crossing_text(size, root)])
        if best:
            right = size.x > np.sqrt(np.prod(axes.get_xlim()))  # the label is on the side with more space
            axes.annotate(
                " / ".join(map(figure_name, size.methods)),
                (size.x, root.examples),
                (-7 if right else 7, 5 if "full" in size.methods else -11),
                textcoords="offset points",
                fontsize=8,
                ha="right" if right else "left",
            )


def crossing_text(size: CriticalSize, root: Root) -> str:
    """Return a crossing as text: factor value, methods, estimate and interval."""
    estimate = format_estimate(root.examples, root.interval, format_count)
    extrapolated = f", {' and '.join(map(method_name, root.extrapolated))} extrapolated" if root.extrapolated else ""
    return (
        f"{FACTOR_NAMES[size.factor]} {format_count(size.x)}: {method_name(root.below)} is better below and "
        f"{method_name(root.above)} above {estimate} examples{extrapolated}"
    )
