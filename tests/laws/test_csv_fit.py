"""Fits of one law to a CSV of its factors: the published optimum, the written files, invalid columns."""

import csv
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.csv_fit import fit_csv
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.forms.library import CHINCHILLA, SINGLE
from finetune_scaling.laws.uncertainty.bootstrap import Resampling

FEW = Resampling("settings", 40)


def test_chinchilla_has_the_published_optimum_and_standard_errors(shared_data: Path, tmp_path: Path) -> None:
    with open(shared_data / "scaling/chinchilla/svg_extracted_data.csv", newline="") as file:
        rows = [(float(r["Model Size"]), float(r["Training FLOP"]), float(r["loss"])) for r in csv.DictReader(file)]
    rows = sorted(rows, key=lambda r: r[2])[:-5]
    lines = [f"{n},{flop / (6 * n)},{loss}" for n, flop, loss in rows]
    (tmp_path / "points.csv").write_text("\n".join(["N,D,loss", *lines]))
    fit_csv(CHINCHILLA, tmp_path / "points.csv", tmp_path, FitSettings(), progress=lambda _: None)
    record = json.loads((tmp_path / "fit.json").read_text())["fits"][0]
    assert record["objective"] == pytest.approx(1.018274e-3, rel=5e-7)
    expected = {"A": 477.8, "B": 2143, "E": 1.8172, "alpha": 0.3473, "beta": 0.3672}
    for name, value in expected.items():
        assert record["parameters"][name]["value"] == pytest.approx(value, rel=3e-4)
    # Besiroglu et al. 2024, also by bootstrap.
    for name, published in {"A": 124.6, "B": 1293.2, "E": 0.03, "alpha": 0.02, "beta": 0.02}.items():
        assert published / 2 < record["parameters"][name]["standard_error"] < published * 2


def test_held_out_rows_are_scored_and_not_fitted(tmp_path: Path) -> None:
    d = np.geomspace(10, 1e4, 8)
    loss = 2 / d**0.3 + 0.5
    loss[-1] += 0.25
    lines = [f"{x},{y},{int(x == d[-1])}" for x, y in zip(d, loss, strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(["D,loss,held_out", *lines]))
    (record,) = fit_csv(SINGLE, tmp_path / "points.csv", tmp_path, FitSettings(), lambda _: None, resampling=FEW)
    assert record["parameters"]["beta"]["value"] == pytest.approx(0.3, rel=1e-3)
    assert record["errors"]["held_out"]["all"] == pytest.approx(0.25, rel=1e-3)
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("D,los\n1,2\n", "column 'loss' is missing"),
        ("D,loss\n10,1\n0,2\n", "line 3, column 'D' is 0"),
        ("D,loss\n10,1\n20,.9\n", "2 points to fit"),
        ("D,loss\n10,1\n10,.9\n10,.8\n10,.7\n", "D is 10 in all 4 points"),
        ("D,loss\n10,1\n20,.9\n10,.8\n20,.7\n", "2 different D to fit"),
        ("D,loss\n10,2\n20,2\n30,2\n40,2\n", "loss is 2 in all 4 points"),
    ],
)
def test_invalid_tables(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "points.csv").write_text(text)
    with pytest.raises(DataError) as error:
        fit_csv(SINGLE, tmp_path / "points.csv", tmp_path, FitSettings())
    assert message in str(error.value)


def test_curves_are_fitted_separately_and_badly_fitted_ones_have_no_values(tmp_path: Path) -> None:
    d = np.geomspace(10, 1e5, 12)
    step = np.where(d > 1e3, 1.0, 4.0)
    curves = {"smooth": 2 / d**0.3 + 0.5, "step": step}
    lines = [f"{x},{y},{name}" for name, loss in curves.items() for x, y in zip(d, loss, strict=True)]
    (tmp_path / "points.csv").write_text("\n".join(["D,loss,curve", *lines]))
    shown: list[str] = []
    path = tmp_path / "points.csv"
    records = fit_csv(SINGLE, path, tmp_path, FitSettings(), shown.append, by="curve", resampling=FEW)
    assert [(r["curve"], r["describes"]) for r in records] == [("smooth", True), ("step", False)]
    assert records[0]["parameters"]["beta"]["value"] == pytest.approx(0.3, rel=1e-3)
    assert all(entry["value"] is None for entry in records[1]["parameters"].values())
    assert any("does not fit these points" in line for line in shown)
    table = pd.read_csv(tmp_path / "predictions.csv").set_index("curve")
    assert (table.loc["smooth", "low"] <= table.loc["smooth", "high"]).all()
    assert table.loc["step", ["low", "high"]].isna().all(axis=None)
