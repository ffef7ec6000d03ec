"""The picture of exponents and floors: every value with its 90 % interval, pale where it is not identified."""

from typing import Any

from matplotlib.axes import Axes

from finetune_scaling.analysis.analysis import Analysis
from finetune_scaling.laws.fitting.joint_fit import JointFit
from finetune_scaling.report.names import method_name
from finetune_scaling.report.phrases import parameter_text
from finetune_scaling.report.picture import Picture, picture_of
from finetune_scaling.report.plots import method_series, panels, style

NAMES = ("alpha_model", "alpha_pretrain", "alpha_pet", "beta", "E")
PALE = 0.4


def caption(analysis: Analysis) -> str:
    """What the picture shows."""
    return (
        f"{analysis.main_law.capitalize()} law. Bars are 90 % intervals over the bootstrap; an arrow says that the "
        "interval is open on that side. Pale: not identified by these points. Fits that do not describe their points "
        "are left out."
    )


def exponents(analysis: Analysis) -> list[str]:
    """Which of the parameters there are to show."""
    return [n for n in NAMES if any(n in f.parameters for f in _fits(analysis))]


def _fits(analysis: Analysis) -> list[JointFit]:
    return [fit for fit in analysis.of_law(analysis.main_law) if fit.describes]


def draw_exponents(analysis: Analysis) -> Picture:
    """One panel a parameter, one row a task and method."""
    fits, present = _fits(analysis), exponents(analysis)
    picture, grid = panels(1, len(present), width=2.2, height=0.9 + 0.28 * len(fits))
    for axes, name in zip(grid.flat, present, strict=True):
        axes.set_title(name.replace("_", " "))
        axes.set_yticks(range(len(fits)), [f"{f.task}, {f.method}" for f in fits])
        axes.margins(x=0.15)
        if name == "E":  # a floor is below every loss: bars that say less than that end there
            floors = [f.parameters["E"] for f in fits]
            axes.set_xlim(0, 1.1 * max(analysis.table.settings["loss"].min(), *floors))
        for place, fit in enumerate(fits):
            if name in fit.parameters:
                _draw_value(axes, place, name, fit, analysis.methods)
    grid[0, 0].set_ylim(len(fits) - 0.5, -0.5)
    return picture


def _draw_value(axes: Axes, place: int, name: str, fit: JointFit, methods: tuple[str, ...]) -> None:
    value, interval = fit.parameters[name], fit.interval(name)
    series, marker = method_series(fit.method, methods), style(fit.method, methods)[1]
    alpha = 1.0 if fit.is_well_determined(name) else PALE
    low = value if interval.low is None else interval.low
    high = value if interval.high is None else interval.high
    look: dict[str, Any] = {"color": series.colour, "alpha": alpha}
    drawn = axes.plot([low, high], [place] * 2, lw=1.6, **look)
    drawn += axes.plot(value, place, marker, ms=6, **look)
    if interval.low is None:
        drawn += axes.plot(low, place, marker=r"$\leftarrow$", ms=12, ls="none", **look)
    if interval.high is None:
        drawn += axes.plot(high, place, marker=r"$\rightarrow$", ms=12, ls="none", **look)
    picture = picture_of(axes)
    picture.tag(series, *drawn)
    said = f"{fit.task}, {method_name(fit.method)}: {name.replace('_', ' ')} {parameter_text(fit, name)}"
    picture.read(axes, series, [value], [place], [said])
