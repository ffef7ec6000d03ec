"""The jackknife standard error against the closed form for a mean, and its rules."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.laws.uncertainty.jackknife import (
    JackknifeEstimate,
    jackknife_difference,
    jackknife_estimate,
    leave_out_weights,
)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=12))
def test_the_jackknife_of_a_mean_is_its_standard_error(values: list[float]) -> None:
    data = np.array(values)
    weights, groupings = leave_out_weights([np.arange(len(data), dtype=float)])
    means = weights @ data / weights.sum(axis=1)
    found = jackknife_estimate(means, groupings)
    assert found.standard_error == pytest.approx(data.std(ddof=1) / np.sqrt(len(data)), abs=1e-9)


def test_points_without_a_level_in_a_grouping_are_kept() -> None:
    weights, groupings = leave_out_weights([np.array([1.0, 1.0, 2.0]), np.array([np.nan, 5.0, 6.0])])
    np.testing.assert_array_equal(weights, [[0, 0, 1], [1, 1, 0], [1, 0, 1], [1, 1, 0]])
    assert groupings == [slice(0, 2), slice(2, 4)]


def test_an_unknown_error_has_an_infinite_half_width_and_a_reason() -> None:
    unknown = jackknife_estimate(np.array([1.0, 2.0]), [slice(0, 2)], ["too few"])
    assert unknown == JackknifeEstimate(None, None, "too few")
    assert unknown.half_width() == np.inf
    assert jackknife_estimate(np.array([1.0, np.nan]), [slice(0, 2)]).standard_error is None
    assert jackknife_difference(unknown, JackknifeEstimate(0.1, 3.0)) == unknown


def test_the_half_width_is_by_students_t() -> None:
    assert JackknifeEstimate(2.0, 4.0).half_width() == pytest.approx(2 * 2.1318, rel=1e-4)
    both = jackknife_difference(JackknifeEstimate(3.0, 4.0), JackknifeEstimate(4.0, 4.0))
    assert both.standard_error == pytest.approx(5.0)
    assert 4 < (both.degrees or 0) < 8
