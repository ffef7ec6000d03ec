"""The search returns the cheapest layout that fits, as found by brute force."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.models.ladder import model_config
from finetune_scaling.planning.bounds import StepBound, step_bound, training_work
from finetune_scaling.planning.chips import Slice, find_chip, find_slice
from finetune_scaling.planning.layout import Layout, ResidentBytes, resident_bytes
from finetune_scaling.planning.memory_estimate import Memory, estimate_memory
from finetune_scaling.planning.search import (
    ESTIMATE_TOLERANCE,
    MAX_COMPILED,
    Candidate,
    by_slice_size,
    candidates,
    compile_until_fit,
    compile_until_fit_by_size,
    first_estimated_to_fit,
)
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS


def brute_force(workload: Workload, slices: Sequence[Slice]) -> float:
    """Return the least chip-seconds of any layout that fits, over all combinations."""
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
                    if estimate_memory(workload, layout).peak <= slice_.chip.hbm_bytes:
                        work = training_work(workload, layout, resident_bytes(workload, layout))
                        found.append(slice_.chips * step_bound(slice_.chip, work).seconds)
    return min(found)


@pytest.mark.parametrize(
    ("rung", "method", "batch"), [("1b", "full", 8), ("1b", "lora", 8), ("2b", "full", 16), ("2b", "prompt", 4)]
)
def test_the_choice_is_the_cheapest_that_fits(
    workload: Callable[..., Workload], rung: str, method: str, batch: int
) -> None:
    slices = [find_slice(name) for name in ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4")]
    step = workload(rung, method, batch=batch, length=512)
    chosen = first_estimated_to_fit(candidates([step], slices))
    assert chosen is not None
    assert chosen.memory.fits(chosen.slice.chip)
    assert chosen.chip_seconds == pytest.approx(brute_force(step, slices), rel=1e-5)


def test_no_candidate_is_returned_if_none_fits(workload: Callable[..., Workload]) -> None:
    assert first_estimated_to_fit(candidates([workload("16b", batch=8, length=512)], [find_slice("v5e:2x2")])) is None


def test_an_indivisible_batch_has_no_layout_on_many_chips(workload: Callable[..., Workload]) -> None:
    found = candidates([workload("1b", batch=7, length=64)], [find_slice("v5e:4x4")])
    assert not found  # 16 chips: 8 heads allow a tensor axis of 8, and 2 does not divide 7


STEP = Workload(model_config({"name": "30k"}, 512), configure(METHODS, {"name": "full"}), OptimizerConfig(), 8, 64, 8)
GIB_15 = find_chip("v5e").hbm_bytes


def candidate(cost: int, peak: float, topology: str = "v5e:1x1") -> Candidate:
    """Return a candidate of this cost whose estimate is `peak` times the memory."""
    resident = ResidentBytes(0, 0, 0, round(peak * GIB_15))
    return Candidate(STEP, find_slice(topology), Layout(1, 1, 1), Memory(resident, 0), StepBound(float(cost), 0.0, 0.0))


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 2.0)), max_size=30), st.floats(0.5, ESTIMATE_TOLERANCE))
@settings(deadline=None)
def test_compiling_finds_the_cheapest_that_fits_if_the_estimate_orders_candidates(
    entries: list[tuple[int, float]], limit: float
) -> None:
    """The compiler's limit differs from the estimate's, but both order candidates equally."""
    ranked = sorted((candidate(*entry) for entry in entries), key=lambda c: c.chip_seconds)
    fits = [c for c in ranked if c.memory.peak <= limit * GIB_15]
    chosen, tried = compile_until_fit(ranked, lambda c: (c.memory.peak <= limit * GIB_15, None), most=len(ranked) + 1)
    expected = min((c.chip_seconds for c in fits), default=None)
    assert (None if chosen is None else chosen.chip_seconds) == expected
    assert all(c.memory.peak <= ESTIMATE_TOLERANCE * GIB_15 for c, _ in tried)


def test_at_most_three_are_compiled() -> None:
    asked = []

    def refuse(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate)
        return False, None

    ranked = [candidate(cost, 1.1 - cost / 100) for cost in range(1, 20)]
    chosen, tried = compile_until_fit(ranked, refuse)
    assert chosen is None
    assert len(asked) == len(tried) == MAX_COMPILED


def test_the_next_larger_slice_is_tried_if_none_fits_on_the_smallest() -> None:
    asked: list[str] = []

    def compile_(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate.slice.name)
        return candidate.slice.chips == 4, None

    small = [candidate(cost, 1.1 - cost / 100) for cost in range(1, 20)]
    large = [
        candidate(9, 0.5, "v5e:2x2"),
        candidate(5, 1.05, "v5e:2x2"),
        candidate(8, 0.6, "v5e:2x2"),
        candidate(1, 0.1, "v5e:4x4"),
    ]
    chosen, tried = compile_until_fit_by_size(by_slice_size([*large, *small]), compile_)
    assert chosen is large[2]
    assert asked == ["v5e:1x1"] * (len(tried) - 1) + ["v5e:2x2"]
    assert 1 < len(tried) <= MAX_COMPILED + 1


def test_batches_are_compared_per_sequence(workload: Callable[..., Workload]) -> None:
    steps = [workload("1b", batch=batch, length=512) for batch in (4, 8, 32)]
    slices = [find_slice(name) for name in ("v5e:2x2", "v5e:2x4")]
    chosen = first_estimated_to_fit(candidates(steps, slices))
    costs = {step.batch: brute_force(step, slices) / step.batch for step in steps}
    assert chosen is not None
    assert chosen.cost == pytest.approx(min(costs.values()), rel=1e-5)
    assert costs[chosen.workload.batch] == pytest.approx(min(costs.values()), rel=1e-5)


def test_offloading_is_a_candidate_if_the_chip_has_a_host(workload: Callable[..., Workload]) -> None:
    step = workload("1b", batch=8, length=512)
    by_kind = {kind: {c.layout.remat for c in candidates([step], [find_slice(kind)])} for kind in ("v5e:1x1", "cpu:1")}
    assert by_kind == {"v5e:1x1": {"none", "dots", "full", "offload"}, "cpu:1": {"none", "dots", "full"}}


def test_after_a_candidate_that_does_not_fit_only_smaller_ones_are_compiled() -> None:
    asked: list[float] = []

    def compile_(candidate: Candidate) -> tuple[bool, None]:
        asked.append(candidate.chip_seconds)
        return candidate.chip_seconds == 4.0, None

    ranked = [candidate(1, 1.0), candidate(2, 1.05), candidate(3, 1.0), candidate(4, 0.9)]
    chosen, _ = compile_until_fit(ranked, compile_)
    assert chosen is ranked[3]
    assert asked == [1.0, 4.0]


def test_estimate_grows_with_length_batch_and_saved_activations(workload: Callable[..., Workload]) -> None:
    step, layout = workload("1b", batch=32, length=512), Layout(1, 4, 1, remat="full")
    base = estimate_memory(step, layout).peak
    assert estimate_memory(dataclasses.replace(step, length=1024), layout).peak > base
    assert estimate_memory(dataclasses.replace(step, batch=64), layout).peak > base
    assert estimate_memory(step, dataclasses.replace(layout, remat="dots")).peak > base
    assert (
        estimate_memory(step, dataclasses.replace(layout, remat="none")).peak
        > estimate_memory(step, dataclasses.replace(layout, remat="dots")).peak
    )
    assert estimate_memory(workload("1b", "lora", batch=32, length=512), layout).peak < base
    assert estimate_memory(step, Layout(1, 8, 1, remat="full")).peak < base
