"""Warnings about rows with different data, and about held-out examples that are in the training data."""

import pandas as pd
import pytest

from finetune_scaling.laws.points.table import read_points


def table(**columns: list) -> pd.DataFrame:
    """Four rows of one task; their losses follow a power law."""
    rows = [
        {"task": "t", "method": "lora", "factor": "model", "x": x, "finetune_examples": n, "seed": 0, "held_out": 0}
        for x in (1e6, 1e7)
        for n in (100, 1000)
    ]
    losses = [1 + 10 / row["x"] ** 0.2 / row["finetune_examples"] ** 0.1 for row in rows]
    return pd.DataFrame(rows).assign(loss=losses, **columns)


def warnings(**columns: list) -> list[str]:
    return [warning for warning in read_points(table(**columns)).warnings if "data" in warning]


@pytest.mark.parametrize("column", ["train_digest", "dev_digest", "test_digest"])
def test_a_task_with_different_data_is_named_with_its_rows(column):
    assert warnings(**{column: ["sha256:1"] * 4}) == warnings(**{column: [""] * 4}) == []
    (warning,) = warnings(**{column: ["", "", "sha256:1", "sha256:1"]})
    assert "rows 0, 1" in warning
    assert f"({column} is empty)" in warning
    (warning,) = warnings(**{column: ["sha256:1", "sha256:2", "sha256:1", "sha256:2"]})
    assert f"{column}: rows 0, 2; rows 1, 3" in warning
    assert "not comparable" in warning


@pytest.mark.parametrize("column", ["few_shot_1.digest", "terms.digest"])
def test_evaluators_with_different_data_are_named_with_their_rows(column):
    assert warnings(**{column: ["", "", "sha256:1", "sha256:1"]}) == []  # evaluated later, in some runs
    (warning,) = warnings(**{column: ["sha256:1", "sha256:2", "sha256:1", "sha256:2"]})
    assert f"{column}: rows 0, 2; rows 1, 3" in warning
    found = read_points(table(**{column: ["sha256:1"] * 4}))
    assert found.metrics == found.evaluations == found.ignored == ()


def test_tasks_may_have_different_data():
    frames = [table(test_digest=[f"sha256:{task}"] * 4).assign(task=task) for task in "ab"]
    assert read_points(pd.concat(frames)).warnings == read_points(frames[0]).warnings == ()


def test_known_examples_are_named_with_the_largest_share():
    assert warnings(test_in_training=[0, 0.0, "", 0]) == []
    (warning,) = warnings(test_in_training=[0, 0.025, 0.01, None])
    assert "rows 1, 2: up to 2.50% of the test examples are also in the training data" in warning


def test_rows_of_different_precision_are_named():
    assert read_points(table(compute_dtype=["", "", "bfloat16", "bfloat16"])).warnings == ()  # older rows do not say it
    (warning,) = read_points(table(compute_dtype=["float32", "bfloat16"] * 2)).warnings
    assert "compute_dtype differs between rows (bfloat16 in rows 1, 3; float32 in rows 0, 2)" in warning
