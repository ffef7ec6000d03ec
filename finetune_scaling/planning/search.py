"""The cheapest layout that fits: mesh, parts of the batch and remat, for the config's batch or for several.

Every layout that the model, a batch and a slice allow is a candidate. What a candidate costs is its chips times the
lower bound of its step's time (bounds.py), for each sequence of the batch; whether it may fit is told by the estimate
(estimate.py). The cheapest are compiled, at most three of a kind of chip, and the first that the compiler accepts is
taken. Where one is refused, only candidates that need less by the estimate are tried after it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.bounds import Bound, bound, training_work
from finetune_scaling.planning.chips import Slice
from finetune_scaling.planning.estimate import Memory, estimated
from finetune_scaling.planning.layout import Held, Layout, Remat, held
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.axes import DEFAULT_RULES, AxisRules
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch

T = TypeVar("T")

REMAT: tuple[Remat, ...] = ("none", "dots", "full", "offload")
FINALISTS = 3
SLACK = 1.15  # an estimate of so many times the memory may still fit, and the compiler is asked
SURE = 0.9  # one of no more than this is sure to


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A step laid out on a slice, the memory that it is estimated to need, and the least time that it takes."""

    workload: Workload
    slice: Slice
    layout: Layout
    memory: Memory
    bound: Bound

    @property
    def chip_seconds(self) -> float:
        """Of one step, at least: what is paid for."""
        return self.slice.chips * self.bound.seconds

    @property
    def cost(self) -> float:
        """Chip-seconds of one sequence: what steps of other batches are compared by."""
        return self.chip_seconds / self.workload.batch


def candidates(
    workloads: Sequence[Workload], slices: Sequence[Slice], axes: AxisRules | None = None
) -> list[Candidate]:
    """Every layout that can be on these slices, the cheapest first, whether it fits or not; of one run's step, or of
    the same step with other batches.
    """
    rules = axes or DEFAULT_RULES
    found = [
        _assessed(workload, slice_, layout, holds)
        for workload in workloads
        for slice_ in slices
        for mesh in _meshes(workload, slice_.chips, rules)
        for holds in (held(workload, mesh),)
        for layout in _layouts(workload, mesh)
        if layout.remat != "offload" or slice_.chip.host_bandwidth
    ]
    return sorted(found, key=_rank)


def _rank(candidate: Candidate) -> tuple:
    """Cheapest first; of equals the fewest chips, then the simplest layout."""
    layout = candidate.layout
    simple = (candidate.slice.chips, layout.accumulation, REMAT.index(layout.remat), layout.tensor, -layout.fsdp)
    return (
        float(f"{candidate.cost:.6g}"),
        *simple,
        candidate.workload.batch,
    )  # rounded: rounding errors shall decide nothing


def smallest_first(ranked: Sequence[Candidate]) -> list[Candidate]:
    """The candidates in another order, to find the smallest slice that holds the run.

    On each slice those first that are sure to fit, the cheapest before the others; then the rest, by what they need.
    """

    def rank(candidate: Candidate) -> tuple[int, bool, float]:
        unsure = candidate.memory.peak > SURE * candidate.slice.chip.hbm_bytes
        return candidate.slice.chips, unsure, candidate.memory.peak if unsure else candidate.cost

    return sorted(ranked, key=rank)


def _assessed(workload: Workload, slice_: Slice, layout: Layout, holds: Held) -> Candidate:
    work = training_work(workload, layout, holds)
    return Candidate(workload, slice_, layout, estimated(workload, layout, holds), bound(slice_.chip, work))


def _meshes(workload: Workload, chips: int, rules: AxisRules) -> Iterator[Layout]:
    """The meshes that divide the model, and over which its batch can be dealt."""
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
    rows = workload.batch // mesh.batch_parts
    for accumulation, remat in itertools.product(_divisors(rows), REMAT):
        yield dataclasses.replace(mesh, accumulation=accumulation, remat=remat)


def _divisors(number: int) -> list[int]:
    return [n for n in range(1, number + 1) if number % n == 0]


def choose(
    ranked: Sequence[Candidate], compile_: Callable[[Candidate], tuple[bool, T]], most: int = FINALISTS
) -> tuple[Candidate | None, list[tuple[Candidate, T]]]:
    """The first of the ranked candidates that fits, and what was compiled on the way, at most `most`.

    compile_: tells whether a candidate fits, and what to note of it.
    """
    tried: list[tuple[Candidate, T]] = []
    least = math.inf  # of the estimates that were refused
    for candidate in ranked:
        if len(tried) == most:
            break
        if candidate.memory.peak > SLACK * candidate.slice.chip.hbm_bytes or candidate.memory.peak >= least:
            continue
        fits, note = compile_(candidate)
        tried.append((candidate, note))
        if fits:
            return candidate, tried
        least = candidate.memory.peak
    return None, tried


def choose_smallest(
    ranked: Sequence[Candidate], compile_: Callable[[Candidate], tuple[bool, T]]
) -> tuple[Candidate | None, list[tuple[Candidate, T]]]:
    """As `choose`, of candidates in the order of smallest_first: at most FINALISTS on each number of chips, and on to
    the next one where the compiler refuses them.
    """
    tried: list[tuple[Candidate, T]] = []
    for _, group in itertools.groupby(ranked, key=lambda candidate: candidate.slice.chips):
        least = min((candidate.memory.peak for candidate, _ in tried), default=math.inf)
        chosen, compiled = choose([candidate for candidate in group if candidate.memory.peak < least], compile_)
        tried += compiled
        if chosen is not None:
            return chosen, tried
    return None, tried


def analytic(ranked: Sequence[Candidate]) -> Candidate | None:
    """The first that fits by the estimate, without a compiler; None where none does."""
    return next((candidate for candidate in ranked if candidate.memory.fits(candidate.slice.chip)), None)
