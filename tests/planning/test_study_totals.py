"""Totals of a study are the sums over its runs, as `study --list --json` prints them."""

import runpy
from pathlib import Path

import pytest

from finetune_scaling.chips import find_chip
from finetune_scaling.configuration import plain
from finetune_scaling.planning.prices import Price
from finetune_scaling.planning.study_totals import study_totals
from finetune_scaling.studies.grid import read_study
from finetune_scaling.studies.listing import list_runs

PAPER = Path(__file__).parents[2] / "configs" / "study" / "paper.py"
V5E = find_chip("v5e")
PRICES = {"v5e": Price(1.2, None, "2025", "a list")}


@pytest.mark.slow
def test_totals_of_the_papers_grid() -> None:
    """With one of its three seeds, to save time."""
    config = plain(runpy.run_path(str(PAPER))["get_config"]())
    study = read_study({**config, "seeds": [0]})
    listed = list_runs(study, Path("nowhere"))
    totals = study_totals(study, [V5E], PRICES, utilisation=0.5)
    assert len(listed) == 1273
    assert totals["runs"] == 1273 + 10  # and ten base models
    for method in ("full", "lora", "prompt"):
        rows = [row for row in listed if row["method"] == method]
        flops = sum(row["flops"] for row in rows)
        found = totals["methods"][method]
        assert found["runs"] == len(rows)
        assert found["flops"] == pytest.approx(flops)
        at_utilisation = flops / (V5E.peak_flops * 0.5) / 3600
        assert found["chip_hours"]["v5e"] >= at_utilisation * (1 - 1e-9)  # the bound may be longer
        assert found["usd"]["v5e"]["on_demand"] == pytest.approx(found["chip_hours"]["v5e"] * 1.2)
    parts = totals["methods"].values()
    assert totals["total"]["chip_hours"]["v5e"] == pytest.approx(sum(part["chip_hours"]["v5e"] for part in parts))
    assert totals["total"]["usd"]["v5e"]["spot"] is None
    pretraining = totals["methods"]["pretraining"]
    tokens = {"en_de": 135_000 * 2**21, "en_zh": 98_000 * 2**21}
    parameters = (1_218_480_128, 2_188_956_160, 3_601_935_360, 8_107_724_800, 15_440_491_520)
    # Attention adds to it.
    assert pretraining["flops"] == pytest.approx(sum(tokens.values()) * 6 * sum(parameters), rel=0.1)
