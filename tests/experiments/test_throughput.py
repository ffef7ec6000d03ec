"""Speed of a training loop, by a clock of the test."""

import types

import jax
import pytest

from finetune_scaling.experiments import throughput
from finetune_scaling.experiments.throughput import Throughput


@pytest.fixture
def clock(monkeypatch):
    """A clock that tests move."""
    clock = types.SimpleNamespace(now=100.0)
    monkeypatch.setattr(throughput.time, "monotonic", lambda: clock.now)
    return clock


@pytest.fixture
def h100(monkeypatch):
    memory = lambda: {"peak_bytes_in_use": 7}  # noqa: E731
    device = types.SimpleNamespace(device_kind="NVIDIA H100 80GB HBM3", memory_stats=memory)
    for name in ("devices", "local_devices"):
        monkeypatch.setattr(jax, name, lambda: [device] * 2)
    monkeypatch.setattr(jax, "device_count", lambda: 2)


def test_speed_is_that_of_the_steps_between_reports_without_pauses(clock, h100):
    measured = Throughput(tokens_per_step=50, flops_per_step=2 * 989e12)
    clock.now += 60  # compilation
    assert measured.measure(1) == {"peak_memory_bytes": 7}
    clock.now += 4
    with measured.paused():
        clock.now += 1000
    clock.now += 1
    speed = measured.measure(11)
    assert speed.pop("peak_memory_bytes") == 7
    assert speed == pytest.approx({"tokens_per_second": 100.0, "flops_per_second": 4 * 989e12, "mfu": 2.0})
    clock.now += 2
    assert measured.measure(12)["tokens_per_second"] == pytest.approx(25.0)


def test_a_processor_without_a_known_peak_has_no_mfu(clock):
    measured = Throughput(tokens_per_step=50, flops_per_step=1e6)
    measured.measure(1)
    clock.now += 1
    assert measured.measure(2) == {"tokens_per_second": 50.0, "flops_per_second": 1e6}
