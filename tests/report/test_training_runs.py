"""The report of a study has the learning curves and times of its runs; other tables have none."""

import csv
import json
import runpy
from pathlib import Path

import pytest

from finetune_scaling import configuration
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.study_report import fit_study
from finetune_scaling.report.training_runs import CURVES, TIMES, training_tables
from finetune_scaling.studies.grid import read_study, runs

TINY = Path(__file__).parents[1] / "tiny.py"
LOSSES = {"2": 2.8, "4": 2.5, "8": 2.6}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's directory with the records of all runs but the last, and points of one model size."""
    folder = tmp_path_factory.mktemp("study")
    config = configuration.plain(runpy.run_path(str(TINY))["get_config"]("study"))
    (folder / "config.json").write_text(json.dumps(config))
    points: dict[tuple, dict] = {}
    for run in runs(read_study(config))[:-1]:
        setting, directory = run.setting, folder / run.directory
        directory.mkdir(parents=True)
        record = {"parameters": 10**6, "learning_rate": 1e-3, "seconds": 12.5, "dev_losses": LOSSES | {"16": None}}
        (directory / "result.json").write_text(json.dumps(record))
        key = {"task": setting.task, "method": setting.method, "factor": "model", "x": 10**6}
        key |= {"finetune_examples": setting.finetune_examples, "seed": run.seed, "held_out": 0}
        points[tuple(key.values())] = key | {"loss": 2 + 10 / setting.finetune_examples}
    with (folder / "points.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, next(iter(points.values())))
        writer.writeheader()
        writer.writerows(points.values())
    return folder


def test_tables_have_every_evaluation_and_the_time_of_every_setting(folder: Path) -> None:
    study = read_study(json.loads((folder / "config.json").read_text()))
    finished = runs(study)[:-1]
    tables = training_tables(folder / "points.csv", print)
    assert len(tables[CURVES]) == len(finished) * len(LOSSES)
    assert set(tables[CURVES]["run"]) == {run.directory for run in finished}
    assert tables[CURVES].groupby("run")["dev_loss"].min().eq(2.5).all()
    factors = {(run.setting.task, run.setting.method, factor) for run in finished for factor in run.setting.factors}
    assert set(tables[TIMES][["task", "method", "factor"]].itertuples(index=False, name=None)) == factors
    assert tables[TIMES]["seconds"].eq(12.5).all()


def test_other_tables_and_damaged_studies_have_none(folder: Path, tmp_path: Path) -> None:
    shown: list[str] = []
    assert training_tables(None, shown.append) == training_tables(tmp_path / "points.csv", shown.append) == {}
    assert shown == []
    (tmp_path / "runs").mkdir()
    for config in ('{"architectures": []}', "{"):
        (tmp_path / "config.json").write_text(config)
        assert training_tables(tmp_path / "points.csv", shown.append) == {}
        assert shown.pop().startswith("no learning curves: ")


def test_the_report_shows_curves_and_seconds(folder: Path, tmp_path: Path) -> None:
    fit_study(folder, tmp_path, resampling=Resampling(resamples=40), progress=lambda _: None)
    points = json.loads((tmp_path / "plots" / "study-learning-curves.json").read_text())["points"]
    assert set(points["y"]) == {2.5}
    assert all(text.endswith("lowest dev loss 2.5 at step 4") for text in points["text"])
    page = (tmp_path / "report.html").read_text()
    assert "12.5" in page[page.index('id="measured"') : page.index('id="curves"')]
    with (tmp_path / "tables" / f"{CURVES}.csv").open(newline="") as file:
        assert {row["dev_loss"] for row in csv.DictReader(file)} == {"2.8", "2.5", "2.6"}
