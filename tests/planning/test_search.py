"""The search returns the cheapest layout that fits, as found by brute force."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_scaling.chips import Slice, find_chip, find_slice
from finetune_scaling.models.ladder import model_config
from finetune_scaling.planning.bounds import StepBound
from finetune_scaling.planning.estimate import EstimatedStep, estimate_step
from finetune_scaling.planning.layout import Layout, ResidentBytes
from finetune_scaling.planning.search import (
    ESTIMATE_TOLERANCE,
    MAX_COMPILED,
    by_slice_size,
    candidates,
    compile_until_fit,
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
                    step = estimate_step(workload, slice_, layout)
                    if step.resident.total + step.temporary <= slice_.chip.hbm_bytes:
                        found.append(slice_.chips * step.bound.seconds)
    return min(found)


@pytest.mark.parametrize(
    ("size", "method", "batch"), [("1b", "full", 8), ("1b", "lora", 8), ("2b", "full", 16), ("2b", "prompt", 4)]
)
def test_the_choice_is_the_cheapest_that_fits(
    workload: Callable[..., Workload], size: str, method: str, batch: int
) -> None:
    slices = [find_slice(name) for name in ("v5e:1x1", "v5e:2x2", "v5e:2x4", "v5e:4x4")]
    step = workload(size, method, batch=batch, length=512)
    chosen = first_estimated_to_fit(candidates([step], slices))
    assert chosen is not None
    assert chosen.fits
    assert chosen.chip_seconds == pytest.approx(brute_force(step, slices), rel=1e-5)


def test_no_candidate_is_returned_if_none_fits(workload: Callable[..., Workload]) -> None:
    assert first_estimated_to_fit(candidates([workload("16b", batch=8, length=512)], [find_slice("v5e:2x2")])) is None


def test_an_indivisible_batch_has_no_layout_on_many_chips(workload: Callable[..., Workload]) -> None:
    found = candidates([workload("1b", batch=7, length=64)], [find_slice("v5e:4x4")])
    assert not found  # 16 chips: 8 heads allow a tensor axis of 8, and 2 does not divide 7


STEP = Workload(model_config({"name": "30k"}, 512), configure(METHODS, {"name": "full"}), OptimizerConfig(), 8, 64, 8)
GIB_15 = find_chip("v5e").hbm_bytes


def candidate(cost: int, peak: float, topology: str = "v5e:1x1") -> EstimatedStep:
    """Return a candidate of this cost whose estimate is `peak` times the memory."""
    resident, bound = ResidentBytes(0, 0, 0, round(peak * GIB_15)), StepBound(float(cost), 0.0, 0.0)
    return EstimatedStep(STEP, find_slice(topology), Layout(1, 1, 1), resident, 0, bound)


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(0.1, 2.0)), max_size=30), st.floats(0.5, ESTIMATE_TOLERANCE))
@settings(deadline=None)
def test_compiling_finds_the_cheapest_that_fits_if_the_estimate_orders_candidates(
    entries: list[tuple[int, float]], limit: float
) -> None:
    """The compiler's limit differs from the estimate's, but both order candidates equally."""
    ranked = sorted((candidate(*entry) for entry in entries), key=lambda c: c.chip_seconds)
    tried: list[EstimatedStep] = []

    def fits(candidate: EstimatedStep) -> bool:
        tried.append(candidate)
        return candidate.peak <= limit * GIB_15

    chosen = compile_until_fit(ranked, fits, most=len(ranked) + 1)
    expected = min((c.chip_seconds for c in ranked if c.peak <= limit * GIB_15), default=None)
    assert (None if chosen is None else chosen.chip_seconds) == expected
    assert all(c.peak <= ESTIMATE_TOLERANCE * GIB_15 for c in tried)


def test_at_most_three_are_compiled() -> None:
    asked = []

    def refuse(candidate: EstimatedStep) -> bool:
        asked.append(candidate)
        return False

    assert compile_until_fit([candidate(cost, 1.1 - cost / 100) for cost in range(1, 20)], refuse) is None
    assert len(asked) == MAX_COMPILED


def test_the_next_larger_slice_is_tried_if_none_fits_on_the_smallest() -> None:
    asked: list[str] = []

    def fits(candidate: EstimatedStep) -> bool:
        asked.append(candidate.slice.name)
        return candidate.slice.chips == 4

    small = [candidate(cost, 1.1 - cost / 100) for cost in range(1, 20)]
    large = [
        candidate(9, 0.5, "v5e:2x2"),
        candidate(5, 1.05, "v5e:2x2"),
        candidate(8, 0.6, "v5e:2x2"),
        candidate(1, 0.1, "v5e:4x4"),
    ]
    assert compile_until_fit(by_slice_size([*large, *small]), fits, per_size=True) is large[2]
    assert asked == ["v5e:1x1"] * (len(asked) - 1) + ["v5e:2x2"]
    assert 1 < len(asked) <= MAX_COMPILED + 1


def test_batches_are_compared_per_sequence(workload: Callable[..., Workload]) -> None:
    steps = [workload("1b", batch=batch, length=512) for batch in (4, 8, 32)]
    slices = [find_slice(name) for name in ("v5e:2x2", "v5e:2x4")]
    chosen = first_estimated_to_fit(candidates(steps, slices))
    costs = {step.batch: brute_force(step, slices) / step.batch for step in steps}
    assert chosen is not None
    assert chosen.chip_seconds_per_sequence == pytest.approx(min(costs.values()), rel=1e-5)
    assert costs[chosen.workload.batch] == pytest.approx(min(costs.values()), rel=1e-5)


def test_offloading_is_a_candidate_if_the_chip_has_a_host(workload: Callable[..., Workload]) -> None:
    step = workload("1b", batch=8, length=512)
    by_kind = {kind: {c.layout.remat for c in candidates([step], [find_slice(kind)])} for kind in ("v5e:1x1", "cpu:1")}
    assert by_kind == {"v5e:1x1": {"none", "dots", "full", "offload"}, "cpu:1": {"none", "dots", "full"}}


def test_after_a_candidate_that_does_not_fit_only_smaller_ones_are_compiled() -> None:
    asked: list[float] = []

    def fits(candidate: EstimatedStep) -> bool:
        asked.append(candidate.chip_seconds)
        return candidate.chip_seconds == 4.0

    ranked = [candidate(1, 1.0), candidate(2, 1.05), candidate(3, 1.0), candidate(4, 0.9)]
    assert compile_until_fit(ranked, fits) is ranked[3]
    assert asked == [1.0, 4.0]


def test_estimate_grows_with_length_batch_and_saved_activations(workload: Callable[..., Workload]) -> None:
    step, layout = workload("1b", batch=32, length=512), Layout(1, 4, 1, remat="full")

    def peak(step: Workload, layout: Layout = layout) -> int:
        return estimate_step(step, find_slice("v5e:2x4"), layout).peak

    assert peak(dataclasses.replace(step, length=1024)) > peak(step)
    assert peak(dataclasses.replace(step, batch=64)) > peak(step)
    by_remat = [peak(step, dataclasses.replace(layout, remat=remat)) for remat in ("full", "dots", "none")]
    assert by_remat == sorted(set(by_remat))
    assert peak(workload("1b", "lora", batch=32, length=512)) < peak(step)
    assert peak(step, Layout(1, 8, 1, remat="full")) < peak(step)
