"""The compiler's messages for programs that do not fit; compiled programs are in tests/test_plan.py."""

import pytest

from finetune_scaling.planning.compiled import requested_bytes

GIB = 2**30


@pytest.mark.parametrize(
    ("message", "expected"),
    [  # of libtpu 0.0.42
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (22.61G) "
            "exceeds available HBM (15.75G).",
            22.61 * GIB,
        ),
        (
            "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 950.50M of 15.75G hbm. Exceeded hbm "
            "capacity by 1.00G.",
            950.5 * 2**20,
        ),
    ],
)
def test_the_requested_memory_is_read_from_the_message(message: str, expected: float) -> None:
    assert requested_bytes(message) == round(expected)


@pytest.mark.parametrize("message", ["INTERNAL: Used 3.00G of 2.00G hbm", "RESOURCE_EXHAUSTED: no threads left"])
def test_other_failures_are_raised(message: str) -> None:
    with pytest.raises(RuntimeError, match="the compiler failed"):
        requested_bytes(message)
