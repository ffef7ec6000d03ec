"""Search for the cheapest layout that fits: mesh, accumulation and remat, for one batch size or several.

Every layout that model, batch and slice allow is a candidate. Its cost is the number of chips times the lower bound of
the step time (bounds.py) per sequence of the batch. Candidates that fit by the estimate (memory_estimate.py) are
compiled, cheapest first and at most three per kind of chip, until one fits. After a candidate that does not fit, only
those with a smaller estimate are compiled.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.bounds import StepBound, step_bound, training_work
from finetune_scaling.planning.chips import Slice
from finetune_scaling.planning.layout import Layout, Remat, ResidentBytes, resident_bytes
from finetune_scaling.planning.memory_estimate import Memory, estimate_memory
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch

T = TypeVar("T")

REMAT: tuple[Remat, ...] = ("none", "dots", "full", "offload")
MAX_COMPILED = 3  # per kind of chip
ESTIMATE_TOLERANCE = 1.15  # candidates with up to this multiple of the memory are compiled
SAFE_FRACTION = 0.9  # candidates with at most this fraction of the memory certainly fit


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A train step with a layout on a slice, its estimated memory and the lower bound of its time."""

    workload: Workload
    slice: Slice
    layout: Layout
    memory: Memory
    bound: StepBound

    @property
    def chip_seconds(self) -> float:
        """Return the least chip-seconds of one step."""
        return self.slice.chips * self.bound.seconds

    @property
    def cost(self) -> float:
        """Return the least chip-seconds per sequence, which compares different batch sizes."""
        return self.chip_seconds / self.workload.batch


def candidates(
    workloads: Sequence[Workload], slices: Sequence[Slice], axes: AxisRules | None = None
) -> list[Candidate]:
    """Return every possible layout on these slices, cheapest first, whether it fits or not.

    workloads: the train step of a run with one batch size or several.
    """
    rules = axes or DEFAULT_RULES
    found = [
        _candidate(workload, slice_, layout, resident)
        for workload in workloads
        for slice_ in slices
        for mesh in _meshes(workload, slice_.chips, rules)
        for resident in (resident_bytes(workload, mesh),)
        for layout in _layouts(workload, mesh)
        if layout.remat != "offload" or slice_.chip.host_bandwidth
    ]
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple:
    """Return the sort key: cost, then number of chips, then simplicity of the layout."""
    layout = candidate.layout
    simple = (candidate.slice.chips, layout.accumulation, REMAT.index(layout.remat), layout.tensor, -layout.fsdp)
    rounded = float(f"{candidate.cost:.6g}")  # so that floating-point errors do not determine the order
    return rounded, *simple, candidate.workload.batch


def by_slice_size(ranked: Sequence[Candidate]) -> list[Candidate]:
    """Return the candidates by slice size, to find the smallest slice that the run fits.

    On each slice, candidates that certainly fit come first by cost, then the others by estimated memory.
    """

    def rank(candidate: Candidate) -> tuple[int, bool, float]:
        uncertain = candidate.memory.peak > SAFE_FRACTION * candidate.slice.chip.hbm_bytes
        return candidate.slice.chips, uncertain, candidate.memory.peak if uncertain else candidate.cost

    return sorted(ranked, key=rank)


def _candidate(workload: Workload, slice_: Slice, layout: Layout, resident: ResidentBytes) -> Candidate:
    work = training_work(workload, layout, resident)
    memory = estimate_memory(workload, layout, resident)
    return Candidate(workload, slice_, layout, memory, step_bound(slice_.chip, work))


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


def compile_until_fit(
    ranked: Sequence[Candidate], compile_: Callable[[Candidate], tuple[bool, T]], most: int = MAX_COMPILED
) -> tuple[Candidate | None, list[tuple[Candidate, T]]]:
    """Compile at most `most` candidates in order until one fits.

    compile_: returns whether a candidate fits, and its compiled form.
    Returns: the candidate that fits (None if none does), and all compiled candidates.
    """
    tried: list[tuple[Candidate, T]] = []
    smallest = math.inf  # estimated memory of candidates that did not fit
    for candidate in ranked:
        if len(tried) == most:
            break
        limit = ESTIMATE_TOLERANCE * candidate.slice.chip.hbm_bytes
        if candidate.memory.peak > limit or candidate.memory.peak >= smallest:
            continue
        fits, compiled = compile_(candidate)
        tried.append((candidate, compiled))
        if fits:
            return candidate, tried
        smallest = candidate.memory.peak
    return None, tried


def compile_until_fit_by_size(
    ranked: Sequence[Candidate], compile_: Callable[[Candidate], tuple[bool, T]]
) -> tuple[Candidate | None, list[tuple[Candidate, T]]]:
    """Compile candidates that are sorted by slice size until one fits, at most MAX_COMPILED for each number of chips.

    Returns as `compile_until_fit` does.
    """
    tried: list[tuple[Candidate, T]] = []
    for _, group in itertools.groupby(ranked, key=lambda candidate: candidate.slice.chips):
        smallest = min((candidate.memory.peak for candidate, _ in tried), default=math.inf)
        left = [candidate for candidate in group if candidate.memory.peak < smallest]
        chosen, compiled = compile_until_fit(left, compile_)
        tried += compiled
        if chosen is not None:
            return chosen, tried
    return None, tried


def first_estimated_to_fit(ranked: Sequence[Candidate]) -> Candidate | None:
    """Return the first candidate that fits by the estimate; None if none does."""
    return next((candidate for candidate in ranked if candidate.memory.fits(candidate.slice.chip)), None)
