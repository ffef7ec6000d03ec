"""Laws of pretraining: known laws are recovered, intervals cover, and few or flat points determine nothing."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize, stats

import synthetic_points
from finetune_scaling.analysis.pretraining import MIN_POINTS, SIZE, TOKENS, PretrainingFit, fit_pretraining
from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.fitted_law import ZERO
from finetune_scaling.laws.points.bases import find_bases, read_bases
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.laws.uncertainty.profile_region import profile_region
from finetune_scaling.report.study_report import fit_study

SIZES = (1.2e9, 2.2e9, 3.6e9, 8.1e9, 15.4e9)
BUDGETS = (84e9, 126e9, 167e9, 209e9, 283e9)


def bases(noise: float = 0.0, sizes: int = 5, **extra: object) -> pd.DataFrame:
    random = np.random.default_rng(0)
    rows = [
        {"family": "en_de", "model": f"m{i}", "parameters": size, "pretrain_tokens": tokens, "held_out": 0, **extra}
        | {"loss": 500 / size**0.3 + 300 / tokens**0.3 + 1.1 + random.normal(0, noise)}
        for i, size in enumerate(SIZES[:sizes])
        for tokens in BUDGETS
    ]
    return pd.DataFrame(rows)


def fits(table: pd.DataFrame) -> list[PretrainingFit]:
    return fit_pretraining(read_bases(table))


def test_known_laws_are_recovered_over_sizes_and_over_tokens() -> None:
    found = fits(bases())
    assert [f.factor for f in found] == [SIZE] + [TOKENS] * 5
    over_sizes, over_tokens = found[0], found[1]
    assert over_sizes.at == BUDGETS[-1]
    for one, name, factor, floor in (
        (over_sizes, "alpha", 500, 300 / BUDGETS[-1] ** 0.3 + 1.1),
        (over_tokens, "beta", 300, 500 / SIZES[0] ** 0.3 + 1.1),
    ):
        assert one.fitted is not None
        expected = {name: 0.3, "A": factor, "E": floor}
        assert one.fitted.parameters == pytest.approx(expected, rel=1e-3)


def test_held_out_base_models_are_scored_and_not_fitted() -> None:
    table = bases()
    table.loc[table["parameters"] == SIZES[-1], ["held_out", "loss"]] = [1, 2.5]
    over_sizes = fits(table)[0]
    assert over_sizes.fitted is not None
    assert over_sizes.fitted.parameters["alpha"] == pytest.approx(0.3, rel=1e-3)
    assert over_sizes.errors()["held_out"] > 0.5


def test_few_sizes_and_flat_curves_determine_no_parameter() -> None:
    found = fits(bases(sizes=3))[0]
    assert found.fitted is None
    assert re.findall(r"\d+", found.why) == ["3", str(MIN_POINTS)]  # sizes to fit, and how many are needed
    loose = fits(bases(noise=0.003))[1].fitted  # over so few tokens any offset fits
    assert loose is not None
    assert loose.interval("E").low is None
    assert loose.why_poorly_determined("E") == ZERO
    assert loose.why_poorly_determined("beta")


@pytest.mark.parametrize(("points", "noise"), [(4, 0.003), (5, 0.0005), (8, 0.003)])
def test_profile_intervals_cover(points: int, noise: float) -> None:
    """90 % intervals in 85 to 95 % of 300 simulations."""
    random, x = np.random.default_rng(1), np.geomspace(1e9, 1.6e10, points)
    loss, inside = 500 / x**0.3 + 1.1, []
    for _ in range(300):
        found = profile_region(x, loss + random.normal(0, noise, points))
        low, high = found.predictions(x[:1])
        inside.append((_contains(found.exponent, 0.3), _contains(found.offset, 1.1), low[0] <= loss[0] <= high[0]))
    assert (np.mean(inside, axis=0) > 0.85).all()
    assert (np.mean(inside, axis=0) < 0.95).all()


def test_a_profile_interval_is_that_of_scipys_least_squares() -> None:
    random, x = np.random.default_rng(2), np.geomspace(1e9, 1.6e10, 7)
    loss = 500 / x**0.3 + 1.1 + random.normal(0, 0.003, 7)

    def least(exponent: float) -> float:
        shapes = np.stack([(x / 4e9) ** -exponent, np.ones(7)], axis=1)
        return float(optimize.nnls(shapes, loss)[1] ** 2)

    best = optimize.minimize_scalar(least, bounds=(0.05, 2), method="bounded")
    bound = best.fun * (1 + stats.f.ppf(0.9, 1, 4) / 4)
    ends = [optimize.brentq(lambda e: least(e) - bound, *side) for side in ((0.003, best.x), (best.x, 5))]
    found = profile_region(x, loss).exponent
    assert (found.low, found.high) == pytest.approx(tuple(ends), rel=5e-3)


def _contains(interval: object, value: float) -> bool:
    low, high = interval.low, interval.high  # type: ignore[attr-defined]
    return (low is None or low <= value) and (high is None or value <= high)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (
            bases().assign(tokenizer=[*"a" * 24, "b"]),
            "row 24, column 'tokenizer' is b, but a in row 0",
        ),
        (bases().assign(loss=[*[2.0] * 24, 60.0]), "row 24, column 'loss' is 60: above 25 nats"),
        (bases().assign(parameters=0.5), "row 0, column 'parameters' is 0.5: below 1"),
        (bases().assign(pretrain_tokens=84e9), "appear twice"),
        (bases().drop(columns="loss"), "column 'loss' is missing"),
    ],
)
def test_invalid_base_models_are_named(table: pd.DataFrame, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_bases(table)
    assert message in str(error.value)


def test_base_models_are_read_from_the_directory_of_the_points(tmp_path: Path) -> None:
    assert find_bases(None, "total") is None
    assert find_bases(tmp_path / "points.csv", "total") is None
    bases().iloc[:0].to_csv(tmp_path / "bases.csv", index=False)
    assert find_bases(tmp_path / "points.csv", "total") is None
    bases().to_csv(tmp_path / "bases.csv", index=False)
    found = find_bases(tmp_path / "points.csv", "total")
    assert found is not None
    assert len(found) == 25
    with pytest.raises(DataError, match="parameters_non_embedding"):
        find_bases(tmp_path / "points.csv", "non_embedding")


def test_a_diverged_base_is_left_out_with_a_log_line(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    bases().assign(loss_unit="nats", loss=[*[2.0] * 24, 60.0]).to_csv(tmp_path / "bases.csv", index=False)
    assert len(read_bases(tmp_path / "bases.csv")) == 24
    assert "no law uses the loss of line 26" in caplog.text


@pytest.mark.slow
def test_the_report_has_the_laws_of_pretraining_and_of_metrics(tmp_path: Path) -> None:
    rows = [row for row in synthetic_points.rows(noise=0.003, methods=("full",)) if row["factor"] == "model"]
    scored = [{**row, "bleu": 45 / (1 + np.exp(8 * (row["loss"] - 1.3)))} for row in rows]
    synthetic_points.write(tmp_path / "points.csv", scored)
    bases(noise=0.001).to_csv(tmp_path / "bases.csv", index=False)
    fit_study(tmp_path, tmp_path / "report", resampling=Resampling(resamples=60), progress=lambda _: None)
    written = json.loads((tmp_path / "report" / "fit.json").read_text())
    record, metric = written["pretraining"][0], written["metric_laws"][0]
    assert (record["family"], record["over"], record["points"]) == ("en_de", "size", 5)
    assert record["parameters"]["E"]["low"] < record["parameters"]["E"]["value"] < record["parameters"]["E"]["high"]
    assert (tmp_path / "report" / "plots" / "pretraining.svg").exists()
    assert len(pd.read_csv(tmp_path / "report" / "tables" / "pretraining.csv")) == 18
    assert (metric["metric"], metric["preferred"], metric["used"]) == ("bleu", "sigmoid", "sigmoid")
    described = next(f for f in metric["fits"] if f["law"] == "sigmoid")
    assert described["parameters"]["k"]["low"] < 8.01
    assert described["parameters"]["k"]["high"] > 7.99
    assert len(pd.read_csv(tmp_path / "report" / "tables" / "metric_laws.csv")) >= 4
