"""Lower bounds against closed forms."""

import dataclasses
from collections.abc import Callable

import pytest

from finetune_scaling.chips import find_chip
from finetune_scaling.planning.bounds import StepBound, min_hbm_bytes, min_link_bytes, recomputed_flops, step_bound
from finetune_scaling.planning.layout import Layout, ResidentBytes, resident_bytes
from finetune_scaling.planning.workload import Workload

B, L = 128, 512
N_16B, D, HEADS, LAYERS, V = 15_440_491_520, 5120, 20, 40, 128_000  # tied embedding: the table is the head too


V5E, NOTHING = find_chip("v5e"), ResidentBytes(0, 0, 0, 0)


@pytest.mark.parametrize("resource", ["compute", "hbm", "interconnect", "host"])
def test_bound_is_the_largest_of_the_times(resource: str) -> None:
    times = {"compute": 1.0, "hbm": 1.0, "interconnect": 1.0, "host": 1.0, resource: 2.0}
    found = StepBound(**times)
    assert (found.seconds, found.set_by) == (2.0, resource)


def test_time_of_16b_full_tuning(workload: Callable[..., Workload]) -> None:
    step, layout = workload("16b", batch=B, length=L), Layout(1, 64, 1)
    attention = 3 * 2 * 2 * LAYERS * D * L / 2
    expected = B * L * (6 * N_16B + attention)
    found = step_bound(step, V5E, layout, NOTHING)
    assert found.compute * 197e12 * 64 == pytest.approx(expected, rel=1e-4)  # norms count as weights
    assert found.hbm * 819e9 == pytest.approx(min_hbm_bytes(step, layout, NOTHING))
    assert found.interconnect * 200e9 == pytest.approx(min_link_bytes(step, layout))
    assert step_bound(step, V5E, layout, NOTHING, link_bytes=4e11).interconnect == pytest.approx(2.0)


def test_remat_recomputes_the_layers_but_not_the_head(workload: Callable[..., Workload]) -> None:
    step = workload("16b", batch=B, length=L)
    scores = 2 * 2 * LAYERS * D * L / 2
    full = B * L * (2 * (N_16B - V * D) + scores)
    assert recomputed_flops(step, Layout(1, 64, 1, remat="full")) == pytest.approx(full, rel=1e-4)
    assert recomputed_flops(step, Layout(1, 64, 1, remat="dots")) == pytest.approx(B * L * scores)
    assert recomputed_flops(step, Layout(1, 64, 1)) == 0


def test_offloading_sends_each_layers_input_to_the_host_and_back(workload: Callable[..., Workload]) -> None:
    step = workload("16b", batch=B, length=L)
    offloaded = step_bound(step, V5E, Layout(1, 32, 2, remat="offload"), NOTHING).host
    assert offloaded * 15e9 == pytest.approx(2 * LAYERS * (B / 32) * L * D * 2)
    assert step_bound(step, V5E, Layout(1, 32, 2, remat="full"), NOTHING).host == 0


def test_fsdp_gathers_twice_and_scatters_once(workload: Callable[..., Workload]) -> None:
    step = workload("16b", batch=B, length=L)
    weights = 2 * N_16B * 63 / 64
    assert min_link_bytes(step, Layout(1, 64, 1)) == pytest.approx(3 * weights, rel=1e-4)
    assert min_link_bytes(step, Layout(1, 64, 1, accumulation=2)) == pytest.approx(5 * weights, rel=1e-4)


def test_frozen_weights_have_no_gradient_traffic(workload: Callable[..., Workload]) -> None:
    step = workload("16b", "lora", batch=B, length=L)
    assert min_link_bytes(step, Layout(1, 64, 1)) == pytest.approx(2 * 2 * N_16B * 63 / 64, rel=1e-4)
    assert min_link_bytes(step, Layout(64, 1, 1)) == 0


def test_data_parallelism_reduces_gradients(workload: Callable[..., Workload]) -> None:
    step = workload("16b", batch=B, length=L)
    assert min_link_bytes(step, Layout(64, 1, 1)) == pytest.approx(2 * 2 * N_16B * 63 / 64, rel=1e-4)
    mixed = 3 * 2 * N_16B * 15 / 16 + 2 * 2 * N_16B / 16 * 3 / 4
    assert min_link_bytes(step, Layout(4, 16, 1)) == pytest.approx(mixed, rel=1e-4)


def test_tensor_parallelism_reduces_activations(workload: Callable[..., Workload]) -> None:
    step = workload("16b", "lora", batch=B, length=L)
    one = 2 * (B * L * D * 2) * 3 / 4  # an all-reduce over four chips
    assert min_link_bytes(step, Layout(1, 1, 4)) == pytest.approx(2 * LAYERS * one)
    assert min_link_bytes(step, Layout(1, 1, 4, remat="full")) == pytest.approx(3 * LAYERS * one)
    sequential = dataclasses.replace(step, model=dataclasses.replace(step.model, block="sequential"))
    assert min_link_bytes(sequential, Layout(1, 1, 4)) == pytest.approx(4 * LAYERS * one)


def test_hbm_traffic(workload: Callable[..., Workload]) -> None:
    step = workload("16b", batch=B, length=L)
    resident = ResidentBytes(trainable=1000, frozen=200, optimizer=30, batch=4)
    residuals = 2 * LAYERS * (B / 64) * L * D * 2
    expected = (1234 + 1030) + 2 * 2 * N_16B + residuals
    assert min_hbm_bytes(step, Layout(1, 64, 1), resident) == pytest.approx(expected, rel=1e-4)


def test_resident_bytes_of_16b(workload: Callable[..., Workload]) -> None:
    """FSDP over 64 chips: float32 parameters, small factored moments, a batch of two rows."""
    found = resident_bytes(workload("16b", batch=B, length=L), Layout(1, 64, 1))
    assert found.trainable == pytest.approx(4 * N_16B / 64, rel=2e-3)  # norms are replicated
    assert found.frozen == 0
    assert found.batch == 2 * L * (5 * 4 + 1)
    lora = resident_bytes(workload("16b", "lora", batch=16, length=L), Layout(1, 8, 1))
    assert lora.frozen == pytest.approx(2 * N_16B / 8, rel=2e-3)
