"""Collectives read from compiled programs with known collectives."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from finetune_scaling.planning.collectives import Traffic, array_bytes, collectives, parse

ROOT = Path(__file__).parents[2]
STEPS = 6  # as in programs.py
FLOAT = 4


def compiled(platform: str) -> dict[str, str]:
    """HLO texts of programs.py, compiled in another process, since this one has one CPU device."""
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "tests.planning.programs", platform]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=True, env=os.environ | eight, cwd=ROOT, timeout=300
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=["cpu", "tpu"])
def texts(request: pytest.FixtureRequest) -> dict[str, str]:
    if request.param == "tpu":
        pytest.importorskip("libtpu")
    return compiled(request.param)


def only(text: str, kind: str) -> Traffic:
    """Return the traffic of the only kind of collective in a program."""
    found = collectives(text)
    assert list(found.by_kind) == [kind]
    assert found.unknown_loops == 0
    return found.by_kind[kind]


def test_a_gather_in_a_loop_counts_once_per_iteration(texts: dict[str, str]) -> None:
    traffic = only(texts["gather_in_loop"], "all-gather")
    size = STEPS * 512 * 256 * FLOAT
    assert (traffic.count, traffic.bytes, traffic.link_bytes) == (STEPS, size, size * 3 // 4)


def test_trip_counts_of_nested_loops_multiply(texts: dict[str, str]) -> None:
    traffic = only(texts["nested"], "all-reduce")
    size = 3 * STEPS * 128 * 128 * FLOAT
    assert (traffic.count, traffic.bytes) == (3 * STEPS, size)
    assert traffic.link_bytes == size  # two chips: 2 x 1/2


def test_reduce_scatter_counts_its_operand(texts: dict[str, str]) -> None:
    found = collectives(texts["scatter"]).by_kind
    size = 512 * 256 * FLOAT
    assert set(found) == {"reduce-scatter"}
    assert found["reduce-scatter"].bytes == size
    assert found["reduce-scatter"].link_bytes == size * 3 // 4


def test_all_to_all(texts: dict[str, str]) -> None:
    traffic = only(texts["exchange"], "all-to-all")
    size = 512 * 256 * FLOAT  # per chip
    assert (traffic.bytes, traffic.link_bytes) == (size, size * 3 // 4)


def test_a_permutation_receives_all_bytes(texts: dict[str, str]) -> None:
    traffic = only(texts["pass_on"], "collective-permute")
    assert (traffic.count, traffic.bytes, traffic.link_bytes) == (1, 128 * 256 * FLOAT, 128 * 256 * FLOAT)


def test_a_loop_of_unknown_trip_count_counts_once(texts: dict[str, str]) -> None:
    found = collectives(texts["data_dependent"])
    assert found.unknown_loops == 1
    assert found.by_kind["all-reduce"].bytes == 128 * 256 * FLOAT


def test_a_loop_that_may_end_early_counts_its_maximal_trip_count(texts: dict[str, str]) -> None:
    found = collectives(texts["early_ending"])
    assert found.unknown_loops == 0
    assert found.by_kind["all-reduce"].count == STEPS


ASYNCHRONOUS = """HloModule m, num_partitions=8

ENTRY %main (p: f32[4,8]) -> f32[32,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %start = (f32[4,8]{1,0}, f32[32,8]{1,0}) all-gather-start(%p), channel_id=1, replica_groups=[1,8]<=[8], dimensions={0}
  %done = f32[32,8]{1,0} all-gather-done(%start)
  %sum = (bf16[4,8]{1,0}, bf16[2]{0}) all-reduce-start(%a, %b), channel_id=2, replica_groups={{0,1,2,3},{4,5,6,7}}
  %ended = (bf16[4,8]{1,0}, bf16[2]{0}) all-reduce-done(%sum)
  ROOT %kept = f32[4,8]{1,0} reduce-scatter(%done), channel_id=3, replica_groups=mesh['x'=2,'y'=4] {'y':(1)2}
}
"""


def test_asynchronous_collectives_and_notations_of_groups() -> None:
    found = collectives(ASYNCHRONOUS).by_kind
    assert found["all-gather"] == Traffic(1, 1, 1024, 896)
    assert found["all-reduce"] == Traffic(1, 1, 68, 102)  # four chips: 2 x 3/4
    assert found["reduce-scatter"] == Traffic(1, 1, 256, 128)  # two chips keep 128 bytes each


SPLIT = """HloModule m, num_partitions=4

%async_collective_fusion.1 (a: f32[8]) -> f32[32] {
  %a = f32[8]{0} parameter(0)
  ROOT %g.1 = f32[32]{0} all-gather(%a), channel_id=5, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="2"}
}

%async_collective_fusion.2 (b: f32[8]) -> f32[32] {
  %b = f32[8]{0} parameter(0)
  ROOT %g.2 = f32[32]{0} all-gather(%b), channel_id=5, replica_groups={{0,1,2,3}}, frontend_attributes={chain_id="2"}
}

ENTRY %main (p: f32[8]) -> f32[32] {
  %p = f32[8]{0} parameter(0)
  %one = f32[32]{0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.1
  ROOT %two = f32[32]{0} fusion(%p), kind=kCustom, calls=%async_collective_fusion.2
}
"""


def test_a_gather_that_is_split_over_fusions_counts_once() -> None:
    assert collectives(SPLIT).by_kind["all-gather"] == Traffic(1, 1, 128, 96)


def test_bytes_of_shapes() -> None:
    assert array_bytes("(f32[2,3]{1,0:T(8,128)}, pred[], s4[3], f8e4m3fn[5], bf16[0])") == [24, 1, 2, 5, 0]


def test_other_text_raises() -> None:
    with pytest.raises(ValueError, match="ENTRY"):
        parse("no program")
