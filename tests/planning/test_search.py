"""The search: what it takes is the cheapest of all that fit, found by brute force."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.models.ladder import model_config
from finetune_scaling.planning.bounds import Bound, bound, training_work
from finetune_scaling.planning.chips import Slice, find_chip, find_slice
from finetune_scaling.planning.estimate import Memory, memory
from finetune_scaling.planning.layout import Held, Layout, held
from finetune_scaling.planning.search import (
    FINALISTS,
    SLACK,
    Candidate,
    analytic,
    candidates,
    choose,
    choose_smallest,
    smallest_first,
)
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


def brute_force(workload: Workload, slices: Sequence[Slice]) -> float:
    """The least chip-seconds of any layout that fits, by trying every combination of numbers."""
    found = []
    for slice_ in slices:
        numbers = range(1, slice_.chips + 1)
        for data, fsdp, tensor in itertools.product(numbers, repeat=3):
            model = workload.model
            if data * fsdp * tensor != slice_.chips or model.heads % tensor or model.ffn_dim % tensor:
                continue
            if model.model_dim % fsdp or workload.batch % (data * fsdp):
                continue
            for accumulation in range(1, workload.batch + 1):
                if workload.batch % (data * fsdp * accumulation):
                    continue
                for remat in ("none", "dots", "full", "offload"):
                    layout = Layout(data, fsdp, tensor, accumulation, remat)  # type: ignore[arg-type]
                    if memory(workload, layout).peak <= slice_.chip.hbm_bytes:
                        work = training_work(workload, layout, held(workload, layout))
                        found.append(slice_.chips * bound(slice_.chip, work).seconds)
    return min(found)


@pytest.mark.parametrize(
    ("rung", "method", "batch"), [("1b", "full", 8), ("1b", "lora", 8), ("2b", "full", 16), ("2b", "prompt", 4)]
)
def test_choice_is_the_cheapest_of_all_that_fit(
    workload: Callable[..., Workload], rung: str, method: str, batch: int
) -> None:
    slices = [find_slice(name) for name in ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4")]
    step = workload(rung, method, batch=batch, length=512)
    chosen = analytic(candidates([step], slices))
    assert chosen is not None
    assert chosen.memory.fits(chosen.slice.chip)
    assert chosen.chip_seconds == pytest.approx(brute_force(step, slices), rel=1e-5)


def test_nothing_fits_where_nothing_can(workload: Callable[..., Workload]) -> None:
    assert analytic(candidates([workload("16b", batch=8, length=512)], [find_slice("v5e:2x2")])) is None


def test_batch_that_nothing_divides_has_no_layout_on_many_chips(workload: Callable[..., Workload]) -> None:
    found = candidates([workload("1b", batch=7, length=64)], [find_slice("v5e:4x4")])
    assert not found  # 16 chips: 8 heads allow a tensor axis of 8, and 2 does not divide 7


STEP = Workload(model_config({"name": "30k"}, 512), configure(METHODS, {"name": "full"}), OptimizerConfig(), 8, 64, 8)
GIB_15 = find_chip("v5e").hbm_bytes


def made(cost: int, peak: float, topology: str = "v5e:1x1") -> Candidate:
    """A candidate of this cost whose estimate is `peak` times the memory."""
    holds = Held(0, 0, 0, round(peak * GIB_15))
    return Candidate(STEP, find_slice(topology), Layout(1, 1, 1), Memory(holds, 0), Bound(float(cost), 0.0, 0.0))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 2.0)), max_size=30), st.floats(0.5, SLACK))
@settings(deadline=None)
def test_compiling_finds_the_cheapest_that_fits_where_the_estimate_orders_them(
    entries: list[tuple[int, float]], limit: float
) -> None:
    """The compiler's own limit is not the estimate's, but whatever needs more by the estimate needs more."""
    ranked = sorted((made(*entry) for entry in entries), key=lambda c: c.chip_seconds)
    fits = [c for c in ranked if c.memory.peak <= limit * GIB_15]
    chosen, tried = choose(ranked, lambda c: (c.memory.peak <= limit * GIB_15, None), most=len(ranked) + 1)
    expected = min((c.chip_seconds for c in fits), default=None)
    assert (None if chosen is None else chosen.chip_seconds) == expected
    assert all(c.memory.peak <= SLACK * GIB_15 for c, _ in tried)


def test_at_most_three_are_compiled() -> None:
    asked = []

    def refuse(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate)
        return False, None

    ranked = [made(cost, 1.1 - cost / 100) for cost in range(1, 20)]
    chosen, tried = choose(ranked, refuse)
    assert chosen is None
    assert len(asked) == len(tried) == FINALISTS


def test_the_smallest_slice_is_left_for_the_next_one_where_the_compiler_refuses_it() -> None:
    asked: list[str] = []

    def compile_(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate.slice.name)
        return candidate.slice.chips == 4, None

    small = [made(cost, 1.1 - cost / 100) for cost in range(1, 20)]
    large = [made(9, 0.5, "v5e:2x2"), made(5, 1.05, "v5e:2x2"), made(8, 0.6, "v5e:2x2"), made(1, 0.1, "v5e:4x4")]
    chosen, tried = choose_smallest(smallest_first([*large, *small]), compile_)
    assert chosen is large[2]
    assert asked == ["v5e:1x1"] * (len(tried) - 1) + ["v5e:2x2"]
    assert 1 < len(tried) <= FINALISTS + 1


def test_batches_are_compared_by_the_sequence(workload: Callable[..., Workload]) -> None:
    steps = [workload("1b", batch=batch, length=512) for batch in (4, 8, 32)]
    slices = [find_slice(name) for name in ("v5e:2x2", "v5e:2x4")]
    chosen = analytic(candidates(steps, slices))
    costs = {step.batch: brute_force(step, slices) / step.batch for step in steps}
    assert chosen is not None
    assert chosen.cost == pytest.approx(min(costs.values()), rel=1e-5)
    assert costs[chosen.workload.batch] == pytest.approx(min(costs.values()), rel=1e-5)


def test_offloading_is_a_candidate_where_there_is_a_host_beside_the_chip(workload: Callable[..., Workload]) -> None:
    step = workload("1b", batch=8, length=512)
    by_kind = {kind: {c.layout.remat for c in candidates([step], [find_slice(kind)])} for kind in ("v5e:1x1", "cpu:1")}
    assert by_kind == {"v5e:1x1": {"none", "dots", "full", "offload"}, "cpu:1": {"none", "dots", "full"}}


def test_after_a_refusal_only_what_needs_less_is_asked_for() -> None:
    asked: list[float] = []

    def compile_(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate.chip_seconds)
        return candidate.chip_seconds == 4.0, None

    ranked = [made(1, 1.0), made(2, 1.05), made(3, 1.0), made(4, 0.9)]
    chosen, _ = choose(ranked, compile_)
    assert chosen is ranked[3]
    assert asked == [1.0, 4.0]


def test_estimate_grows_with_what_it_is_of(workload: Callable[..., Workload]) -> None:
    step, layout = workload("1b", batch=32, length=512), Layout(1, 4, 1, remat="full")
    base = memory(step, layout).peak
    assert memory(dataclasses.replace(step, length=1024), layout).peak > base
    assert memory(dataclasses.replace(step, batch=64), layout).peak > base
    assert memory(step, dataclasses.replace(layout, remat="dots")).peak > base
    assert (
        memory(step, dataclasses.replace(layout, remat="none")).peak
        > memory(step, dataclasses.replace(layout, remat="dots")).peak
    )
    assert memory(workload("1b", "lora", batch=32, length=512), layout).peak < base
    assert memory(step, Layout(1, 8, 1, remat="full")).peak < base
