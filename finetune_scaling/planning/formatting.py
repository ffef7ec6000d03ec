"""Text output of the plan command."""

from collections.abc import Iterable, Mapping
from typing import Any

from finetune_scaling.chips import GIB
from finetune_scaling.planning.plans import Plan
from finetune_scaling.studies.limits import format_limits


def format_plan(plan: Plan, extra: Mapping[str, Any]) -> str:
    """Return a plan as text. extra: the command's JSON, with model, batch, length, totals of the run and cost."""
    slice_, layout = plan.slice, plan.layout
    hosts = f", {slice_.hosts} hosts" if slice_.hosts > 1 else ""
    named = f" ({slice_.accelerator_type})" if slice_.accelerator_type else ""
    lines = [
        f"{slice_.name}{named}: {slice_.chips} chips{hosts}; {layout.text()}, attention "
        f"{plan.workload.model.attention}",
        f"model: {extra['model']['parameters']:,} parameters, {extra['model']['trainable_parameters']:,} trainable; "
        f"batch {extra['batch']} x {extra['length']} tokens",
        "memory per chip, GiB" + ("" if plan.compiled else ", estimated without compiling"),
        f"  {'':<12}{'arguments':>10}{'temporaries':>13}{'output':>8}{'peak':>8}{'limit':>8}",
    ]
    for name, program in plan.programs.items():
        numbers = (program.argument_bytes, program.temporary_bytes, program.output_bytes, program.peak_bytes)
        columns = "".join(f"{_gib(n):>{width}}" for n, width in zip(numbers, (10, 13, 8, 8), strict=True))
        verdict = "fits" if program.fits else "DOES NOT FIT"
        lines.append(f"  {name:<12}{columns}{_gib(slice_.chip.hbm_bytes):>8}  {verdict}")
    for name, size in plan.loading_bytes.items():
        verdict = "fits" if size <= slice_.chip.hbm_bytes else "DOES NOT FIT"
        lines.append(f"  {name:<12}{_gib(size):>39}{_gib(slice_.chip.hbm_bytes):>8}  {verdict}")
    lines += _collectives(plan)
    bound = plan.bound
    lines.append(
        f"lower bound of the step time: {_seconds(bound.seconds)} ({bound.set_by}): compute {_seconds(bound.compute)}, "
        f"HBM {_seconds(bound.hbm)}, interconnect {_seconds(bound.interconnect)}"
        + (f", host {_seconds(bound.host)}" if bound.host else "")
    )
    return "\n".join([*lines, *_totals(extra)])


def _collectives(plan: Plan) -> list[str]:
    found = plan.training.collectives
    if found is None:
        return []
    lines = ["collectives of a train step, per chip"]
    for kind, traffic in found.by_kind.items():
        lines.append(
            f"  {kind:<20}{traffic.count:>8,} times {traffic.bytes / 1e9:>10.3f} GB, received "
            f"{traffic.link_bytes / 1e9:.3f} GB"
        )
    if not found.by_kind:
        lines.append("  none")
    if found.unknown_loops:
        lines.append(f"  {found.unknown_loops} loops of unknown trip count are counted once")
    return lines


def _totals(extra: Mapping[str, Any]) -> list[str]:
    run, usd = extra["run"], extra["usd"]
    if run is None:
        return [f"totals of the run are unknown: {extra['run_unknown']}"]
    lines = [
        f"run: {run['steps']:,} steps (limits.{run['limit']}), {run['flops']:.3g} FLOPs; chip-hours: at least "
        f"{run['chip_hours_bound']:,.1f}, {run['chip_hours']:,.1f} at {run['utilisation']:.0%} of peak"
    ]
    for name in ("on_demand", "spot"):
        if usd["bound"][name] is not None:
            lines.append(
                f"cost {name.replace('_', ' ')}: at least ${usd['bound'][name]:,.2f}, ${usd['likely'][name]:,.2f} at "
                f"{run['utilisation']:.0%} of peak ({usd['price'][name]} per chip-hour: {usd['price']['source']}, "
                f"{usd['price']['date']})"
            )
    return lines if len(lines) > 1 else [*lines, "cost: unknown; set a price by --prices.KIND.on_demand=USD"]


def _gib(count: int) -> str:
    return f"{count / GIB:.2f}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.3f} s" if seconds >= 1 else f"{seconds * 1e3:.2f} ms"


def format_study(result: Mapping[str, Any]) -> str:
    """Return the totals of a study as a table: methods as columns; runs, FLOPs, chip-hours and cost as rows."""
    columns = {**result["methods"], "total": result["total"]}
    lines = [
        f"chip-hours at {result['utilisation']:.0%} of peak FLOPs, or at the lower bound of the step time if longer;",
        "estimated without compiling, up to the runs' limits, without evaluation",
        _row("", columns),
        _row("runs", [f"{row['runs']:,}" for row in columns.values()]),
        _row("FLOPs", [f"{row['flops']:.3e}" for row in columns.values()]),
    ]
    lines += [
        _row(f"{kind} chip-hours", [_number(row["chip_hours"][kind]) for row in columns.values()])
        for kind in result["chips"]
    ]
    lines += [
        _row(f"{kind} US$ on demand", [_number(row["usd"][kind]["on_demand"]) for row in columns.values()])
        for kind in result["chips"]
    ]
    return "\n".join(filter(None, [*lines, format_limits(result["undetermined"])]))


def _row(name: str, columns: Iterable[str]) -> str:
    return f"{name:<20}" + "".join(f"{cell:>15}" for cell in columns)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
