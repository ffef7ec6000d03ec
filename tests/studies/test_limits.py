"""What a study says before it runs that its grid cannot determine; the table of smallest grids in docs/studies.md."""

import itertools
import re
import runpy
from pathlib import Path

import pandas as pd
import pytest

from finetune_scaling.configuration import plain
from finetune_scaling.laws.fitting.requirements import few_levels, joint_grid, why_no_curve
from finetune_scaling.laws.forms.library import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.studies.grid import read_study
from finetune_scaling.studies.limits import format_limits, grid_limits, settings_table

ROOT = Path(__file__).parents[2]


def limits(**changes) -> list[str]:
    """Return the limits of quickstart's study with other sizes, methods or grids."""
    config = plain(runpy.run_path(str(ROOT / "configs" / "study" / "quickstart.py"))["get_config"]())
    config["families"]["grammar"]["sizes"] = list(changes.pop("sizes", ("30k", "100k", "300k")))
    methods = config["tasks"]["translation"]["methods"]
    kept = changes.pop("methods", tuple(methods))
    config["tasks"]["translation"]["methods"] = {name: {**methods[name], **changes} for name in kept}
    return grid_limits(read_study(config))


def test_the_quickstarts_grid_determines_what_it_varies() -> None:
    assert limits() == []


def test_one_model_size_is_named_before_training() -> None:
    found = limits(sizes=("100k",))
    assert any("full, prompt, lora: the multiplicative law needs 2 model sizes to fit; there is 1" in x for x in found)
    assert not any("single" in line for line in found)  # four dataset sizes to fit
    assert all(line in format_limits(found) for line in found)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        ({"finetune_examples": (125, 250, 500), "held_out_examples": (500,), "sizes": ("30k", "100k")}, "5 settings"),
        ({"finetune_examples": (125, 250, 500), "held_out_examples": (500,)}, "there are 2 and 1 held out"),
        ({"sizes": ("30k", "100k")}, "alpha_model of the multiplicative law will be poorly determined"),
        ({"methods": ("lora",)}, "need two methods"),
        ({"held_out_examples": ()}, "nothing is held out"),
        ({"factors": (), "learning_rates": (1e-3, 2e-3)}, "only learning rates are varied"),
        ({"methods": ("lora",)}, "critical dataset sizes"),
        ({"sizes": ("100k",)}, "critical dataset sizes"),
        ({"finetune_examples": (125, 250), "held_out_examples": ()}, "6 settings with 2 dataset sizes, 8 with 3"),
    ],
)
def test_every_lack_of_a_grid_is_named(changes: dict, limit: str) -> None:
    assert not any(limit in line for line in limits())
    assert any(limit in line for line in limits(**changes)), limits(**changes)


def test_a_complete_grid_has_no_limits() -> None:
    config = plain(runpy.run_path(str(ROOT / "configs" / "study" / "paper.py"))["get_config"]())
    study = read_study(config)
    assert grid_limits(study) == []
    assert format_limits([]) == ""
    assert set(settings_table(study)["factor"]) == {"model", "pretrain", "pet"}


def documented_grids() -> list[list[str]]:
    page = (ROOT / "docs" / "studies.md").read_text(encoding="utf-8")
    table = page[page.index("| model sizes | dataset sizes") :].partition("\n\n")[0]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("cells", documented_grids(), ids=lambda cells: " ".join(cells[:3]))
def test_the_documented_smallest_grids_are_those_that_suffice(cells: list[str]) -> None:
    models, sizes, held_out = map(int, cells[:3])
    rows = pd.DataFrame(
        [
            {"factor": "model", "x": x, "finetune_examples": d, "held_out": d >= sizes - held_out}
            for x, d in itertools.product(range(models), range(sizes))
        ]
    )

    def answer(law) -> str:
        if joint_grid(law, rows).lacking:
            return "no"
        return "no interval" if few_levels(law, rows) else "yes"

    single = "no" if why_no_curve(rows) else "no interval" if sizes - held_out == 3 else "yes"
    assert cells[3:] == [single, answer(MULTIPLICATIVE), answer(ADDITIVE)]


def test_a_listing_ends_with_the_limits_of_the_grid() -> None:
    assert documented_grids()
    assert re.search(r"--list` prints .*cannot determine", (ROOT / "docs" / "studies.md").read_text(), re.DOTALL)
