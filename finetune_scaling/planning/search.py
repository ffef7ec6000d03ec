"""Search for the cheapest layout that fits: mesh, accumulation and remat, for one batch size or several.

Every layout that model, batch and slice allow is a candidate. Its cost is the number of chips times the lower bound of
the step time (bounds.py) per sequence of the batch. Candidates that fit by the estimate (estimate.py) are compiled,
cheapest first and at most three per kind of chip, until one fits. After a candidate that does not fit, only those with
a smaller estimate are compiled.
"""

import collections
import dataclasses
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from finetune_scaling.chips import Chip, Slice
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.attention_choice import check_attention
from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.estimate import EstimatedStep, estimate_step
from finetune_scaling.planning.layout import Layout, Remat, resident_bytes
from finetune_scaling.planning.plans import Plan, compiled_plan, estimated_plan
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch

log = logging.getLogger(__name__)

REMAT: tuple[Remat, ...] = ("none", "dots", "full", "offload")
MAX_COMPILED = 3  # per kind of chip
ESTIMATE_TOLERANCE = 1.15  # candidates with up to this multiple of the memory are compiled
SAFE_FRACTION = 0.9  # candidates with at most this fraction of the memory are expected to fit


def search_kinds(
    workloads: Sequence[Workload],
    slices: Mapping[Chip, Sequence[Slice]],
    axes: AxisRules,
    *,
    smallest: bool,
    analytic: bool,
) -> list[Plan]:
    """Return, for each kind of chip, the plan of the cheapest batch and layout that fit.

    Args:
      workloads: the train step of a run with one batch size or several.
      slices: the slices to search, by kind of chip.
      smallest: whether to prefer the smallest slice that the run fits.
      analytic: whether to estimate without compiling, for TPUs too.

    Raises:
      ConfigError: no layout fits, or the only kind of chip has no kernel of the model's attention.
    """
    found: list[Plan] = []
    for chip, of_kind in slices.items():
        try:
            check_attention(workloads[0].model, chip.platform)
        except ConfigError as error:
            if len(slices) == 1:
                raise
            log.warning("%s is omitted: %s", chip.kind, error)
            continue
        ranked = candidates(workloads, of_kind, axes)
        plan = best_plan(ranked, smallest=smallest, compiling=chip.compiles(analytic))
        if plan is None:
            log.warning("%s: no layout fits", chip.kind)
        else:
            found.append(plan)
    if not found:
        raise ConfigError("no layout fits; give a larger slice, a smaller batch or another kind of chip (--topology)")
    return found


def candidates(
    workloads: Sequence[Workload], slices: Sequence[Slice], axes: AxisRules = DEFAULT_RULES
) -> list[EstimatedStep]:
    """Return every possible layout on these slices, cheapest first, whether it fits or not.

    workloads: the train step of a run with one batch size or several.
    """
    found = [
        estimate_step(workload, slice_, layout, resident)
        for workload in workloads
        for slice_ in slices
        for mesh in _meshes(workload, slice_.chips, axes)
        for resident in (resident_bytes(workload, mesh),)
        for layout in _layouts(workload, mesh)
        if layout.remat != "offload" or slice_.chip.host_bandwidth
    ]
    return sorted(found, key=_rank)


def _rank(candidate: EstimatedStep) -> tuple:
    """Return the sort key: cost, then number of chips, then simplicity of the layout."""
    layout = candidate.layout
    simple = (candidate.slice.chips, layout.accumulation, REMAT.index(layout.remat), layout.tensor, -layout.fsdp)
    rounded = float(f"{candidate.chip_seconds_per_sequence:.6g}")  # floating-point errors must not set the order
    return rounded, *simple, candidate.workload.batch


def _meshes(workload: Workload, chips: int, rules: AxisRules) -> Iterator[Layout]:
    """Yield the meshes over which model and batch can be sharded."""
    for tensor, fsdp in itertools.product(_divisors(chips), repeat=2):
        if chips % (tensor * fsdp):
            continue
        sharding = ShardingConfig(fsdp, tensor, rules)
        layout = Layout(chips // (tensor * fsdp), fsdp, tensor, axes=rules)
        try:
            check_fits(workload.model, sharding, layout.mesh())
            check_batch(workload.batch, 1, sharding, layout.mesh())
        except ConfigError:
            continue
        yield layout


def _layouts(workload: Workload, mesh: Layout) -> Iterator[Layout]:
    rows = workload.batch // mesh.batch_shards
    for accumulation, remat in itertools.product(_divisors(rows), REMAT):
        yield dataclasses.replace(mesh, accumulation=accumulation, remat=remat)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def first_estimated_to_fit(ranked: Sequence[EstimatedStep]) -> EstimatedStep | None:
    """Return the first candidate that fits by the estimate; None if none does."""
    return next((candidate for candidate in ranked if candidate.fits), None)


def by_slice_size(ranked: Sequence[EstimatedStep]) -> list[EstimatedStep]:
    """Return the candidates by slice size, to find the smallest slice that the run fits.

    On each slice, candidates that fit with a margin come first by cost, then the others by estimated memory.
    """

    def rank(candidate: EstimatedStep) -> tuple[int, bool, float]:
        uncertain = candidate.peak > SAFE_FRACTION * candidate.slice.chip.hbm_bytes
        return candidate.slice.chips, uncertain, candidate.peak if uncertain else candidate.chip_seconds_per_sequence

    return sorted(ranked, key=rank)


def best_plan(ranked: Sequence[EstimatedStep], *, smallest: bool, compiling: bool) -> Plan | None:
    """Return the plan of the cheapest candidate that fits, or on the smallest slice; None if none fits.

    ranked: the candidates of one kind of chip, cheapest first.
    compiling: whether the compiler decides which one fits, not the estimate.
    """
    ordered = by_slice_size(ranked) if smallest else ranked
    if not compiling:
        estimated = first_estimated_to_fit(ordered)
        return None if estimated is None else estimated_plan(estimated)
    plans: list[Plan] = []

    def fits(candidate: EstimatedStep) -> bool:
        plans.append(compiled_plan(candidate, training_only=True))
        return plans[-1].training.fits

    if compile_until_fit(ordered, fits, per_size=smallest) is None:
        return None
    return dataclasses.replace(plans.pop(), refused=tuple(plans))


def compile_until_fit(
    ordered: Sequence[EstimatedStep],
    fits: Callable[[EstimatedStep], bool],
    per_size: bool = False,
    most: int = MAX_COMPILED,
) -> EstimatedStep | None:
    """Return the first candidate that fits, out of those that may; None if none of the compiled ones does.

    fits: compiles a candidate; called `most` times, or with `per_size` as often for each number of chips.
    """
    compiled: collections.Counter[int] = collections.Counter()  # by number of chips, or in all
    smallest = math.inf  # estimated memory of candidates that did not fit
    for candidate in ordered:
        size = candidate.slice.chips if per_size else 0
        limit = ESTIMATE_TOLERANCE * candidate.slice.chip.hbm_bytes
        if compiled[size] == most or candidate.peak > limit or candidate.peak >= smallest:
            continue
        if fits(candidate):
            return candidate
        compiled[size] += 1
        smallest = candidate.peak
    return None
