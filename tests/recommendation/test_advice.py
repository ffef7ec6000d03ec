"""Recommendations on simulated studies: right where the points suffice, inconclusive where they do not."""

import dataclasses
import json
import re
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import synthetic_points
from finetune_scaling.analysis.analysis import _best_method_maps
from finetune_scaling.api import Fitted, fit, read_points
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.laws.forms.library import ADDITIVE
from finetune_scaling.laws.points.cells import MAX_LOSS
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.planning.prices import Price
from finetune_scaling.recommendation.advice import CHOOSE, INCONCLUSIVE, _short
from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.loss_predictions import clip_outliers, range_distance
from finetune_scaling.recommendation.record import to_record

# A small simulated study with costs, PET sizes and a score: two methods on three models.
MODELS = (1e8, 3e8, 1e9)
EXAMPLES = (1e3, 2e3, 4e3, 8e3, 16e3)
RANKS = (2, 4, 8)
LAWS = {"full": (120.0, 0.30, 0.12, 1.0), "lora": (9.0, 0.18, 0.06, 0.9)}  # A, alpha, beta, E
PET = 0.02  # exponent of the rank
TOKENS = 100
ALL = [*product(["full"], MODELS, [4.0]), *product(["lora"], MODELS, RANKS)]
PRICES = {"v5e": Price(1.2, None, "2026", "a test")}


def true_loss(method: str, size: float, examples: float, rank: float = 4.0, law: str = "multiplicative") -> float:
    """Return the true loss."""
    scale, alpha, beta, offset = LAWS[method]
    if law == "additive":
        return offset + scale / size**alpha + examples**-beta + (rank**-PET - 4**-PET)
    return offset + scale / size**alpha / examples**beta * (rank / 4) ** -PET


def simulated_rows(noise: float = 0.001, law: str = "multiplicative", **without: bool) -> list[dict[str, Any]]:
    """Rows of points.csv, two seeds each; without: columns that are not written."""
    random = np.random.default_rng(0)
    found = []
    settings = [(m, "model", x, x, 4) for m in LAWS for x in MODELS] + [("lora", "pet", r, MODELS[0], r) for r in RANKS]
    for method, factor, x, size, rank in settings:
        for examples in EXAMPLES:
            for one in range(2):
                measured = true_loss(method, size, examples, rank, law) + random.normal(0, noise)
                row = {"task": "simulated", "method": method, "factor": factor, "x": x, "finetune_examples": examples}
                row |= {"loss": measured, "seed": one, "held_out": 0, "parameters": size}
                row |= {"pet_size": "" if method == "full" else rank, "bleu": 100 / (1 + np.exp(4 * (measured - 1.4)))}
                row |= {"flops": (6 if method == "full" else 4) * size * examples * TOKENS}
                row |= {"trainable_parameters": int(size if method == "full" else rank * size**0.5)}
                found.append({name: value for name, value in row.items() if not without.get(name)})
    return found


def fit_rows(folder: Path, rows: list[dict[str, Any]]) -> Fitted:
    points = synthetic_points.write(folder / "points.csv", rows)
    return fit(read_points(points), resampling=Resampling(resamples=60))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_rows(tmp_path_factory.mktemp("study"), simulated_rows(bleu=True))  # laws of a metric take seconds


@pytest.fixture(scope="module")
def additive(tmp_path_factory: pytest.TempPathFactory) -> Fitted:
    return fit_rows(tmp_path_factory.mktemp("study"), simulated_rows(law="additive", bleu=True))


def best(examples: float, flops: float = np.inf) -> tuple[str, float, float]:
    """Return the best affordable method, size and rank."""
    within = [c for c in ALL if (6 if c[0] == "full" else 4) * c[1] * examples * TOKENS <= flops]
    return min(within, key=lambda c: true_loss(c[0], c[1], examples, c[2]))


def test_points_to_a_prediction_and_a_recommendation(fitted: Fitted) -> None:
    predicted = fitted.predict("lora", 1e9, examples=8e3)
    advice = fitted.recommend(8e3, budget="1e18flop", next_runs=2)
    assert predicted.loss == pytest.approx(true_loss("lora", 1e9, 8e3), abs=0.002)
    assert predicted.interval.low < predicted.loss < predicted.interval.high
    assert advice.chosen is not None
    assert advice.next_runs is not None


@pytest.mark.parametrize("examples", [1e3, 4e3, 16e3])
@pytest.mark.parametrize("flops", [3e14, 1.5e15, 1e18])
def test_the_best_candidate_is_chosen(fitted: Fitted, examples: float, flops: float) -> None:
    if flops < 4 * MODELS[0] * examples * TOKENS:
        with pytest.raises(ConfigError, match=r"cheapest candidate on simulated \(LoRA .* on 100M parameters"):
            fitted.recommend(examples, f"{flops:g}flop")
        return
    found = fitted.recommend(examples, f"{flops:g}flop")
    method, size, rank = best(examples, flops)
    assert found.verdict == CHOOSE, found.reasons
    assert (found.chosen.method, found.chosen.size) == (method, size)
    assert found.chosen.pet == (None if method == "full" else rank)
    chosen = found.preferred.decision.chosen
    assert chosen.loss == pytest.approx(true_loss(method, size, examples, rank), abs=0.003)
    assert chosen.interval.low < chosen.loss < chosen.interval.high
    assert found.candidates.costs[found.chosen].flops == pytest.approx(
        (6 if method == "full" else 4) * size * examples * 100
    )
    assert all(found.candidates.costs[c].flops <= flops for c in found.candidates.affordable)


@pytest.mark.parametrize("law", ["multiplicative", "additive"])
def test_the_laws_over_model_and_pet_size_meet(fitted: Fitted, additive: Fitted, law: str) -> None:
    own = fitted if law == "multiplicative" else additive
    advice = own.recommend(4e3)
    answer = next(one for one in (advice.preferred, advice.other) if one.law == law)
    for size, rank in product(MODELS, RANKS):
        drawn = answer.predictors["lora"].loss_replicates(size, rank, 4e3)
        assert drawn.mean() == pytest.approx(true_loss("lora", size, 4e3, rank, law), abs=0.003), (size, rank)


def test_the_score_is_predicted_from_the_loss(fitted: Fitted, tmp_path: Path) -> None:
    table = read_points(synthetic_points.write(tmp_path / "points.csv", simulated_rows()))
    found = dataclasses.replace(fitted, table=table).recommend(8e3)
    truth = 100 / (1 + np.exp(4 * (true_loss(*best(8e3)[:2], 8e3, best(8e3)[2]) - 1.4)))
    assert found.score.metric == "bleu"
    assert found.score.law == "sigmoid"
    assert found.score.score == pytest.approx(truth, rel=0.02)


@pytest.mark.parametrize("law", ["multiplicative", "additive"])
def test_the_report_and_the_recommendation_agree_everywhere(fitted: Fitted, additive: Fitted, law: str) -> None:
    own = fitted if law == "multiplicative" else additive
    assert_agreement(own, "simulated", 8e3, law)


@pytest.mark.slow
def test_the_report_and_the_recommendation_agree_on_measured_points() -> None:
    points = read_points(Path(__file__).parents[2] / "docs" / "debian_points.csv")
    settings = points.settings[points.settings["method"] != "prompt"]
    points = dataclasses.replace(points, settings=settings, metrics=())  # laws of metrics take seconds
    debian = fit(points, tasks=["summarization"], resampling=Resampling(resamples=40))
    assert_agreement(debian, "summarization", 1000)


def assert_agreement(own: Fitted, task: str, near: float, law: str | None = None) -> None:
    """Compare the map of the best method with recommendations at the default PET size, at 5 x 6 of its points."""
    (found,) = (one for one in _best_method_maps(own, task) if one.factor == "model")
    assert law in (None, found.law)
    columns = range(0, len(found.examples), 9)
    assert min(found.examples) < near < max(found.examples)
    for column in columns:
        advice = own.recommend(found.examples[column], task=task, further_sizes=tuple(found.x[::12]))
        assert advice.preferred.law == found.law
        default = {m: pet.size for m, pet in advice.candidates.pets.items()}
        for row in range(0, len(found.x), 12):
            here = [
                e
                for e in advice.preferred.decision.estimates
                if e.candidate.size == found.x[row] and e.candidate.pet == default[e.candidate.method]
            ]
            assert len(here) == len(found.methods)
            best = min(here, key=lambda e: e.loss)
            assert best.candidate.method == found.methods[found.best[row, column]]
            for e in here:
                shown = own.predict(e.candidate.method, found.x[row], found.examples[column], task=task, law=found.law)
                assert e.loss == pytest.approx(shown.loss, rel=1e-9)


def test_one_model_is_compared_over_dataset_size(tmp_path: Path) -> None:
    rows = [r for r in simulated_rows(bleu=True) if r["x"] == MODELS[0]]
    fitted = fit_rows(tmp_path, rows)
    assert not fitted.fits
    found = fitted.recommend(8e3, more_data=True, next_runs=1)
    assert found.preferred.law == "single"
    assert {c.size for c in found.candidates.costs} == {MODELS[0]}
    for estimate in found.preferred.decision.estimates:
        c = estimate.candidate
        assert estimate.loss == pytest.approx(true_loss(c.method, c.size, 8e3, c.pet or 4.0), abs=0.005)
    assert found.chosen.method == best(8e3, 6 * MODELS[0] * 8e3 * TOKENS)[0]
    assert json.dumps(to_record(found), allow_nan=False)


def test_more_data_lowers_the_loss_by_the_true_difference(fitted: Fitted) -> None:
    found = fitted.recommend(2e3, more_data=True)
    assert {(row.candidate.method, row.multiple) for row in found.more_data} == set(product(LAWS, (1, 2, 4, 10)))
    for row in found.more_data:
        c = row.candidate
        truth = [true_loss(c.method, c.size, examples, c.pet or 4.0) for examples in (2e3, row.examples)]
        assert row.loss == pytest.approx(truth[1], abs=0.01)
        assert row.reduction == pytest.approx(truth[0] - truth[1], abs=0.01)
        if row.multiple > 1:
            assert 0 < row.reduction_interval.low < row.reduction < row.reduction_interval.high
    assert [row.outside for row in found.more_data if row.multiple == 10] == [("examples",)] * len(LAWS)
    text = str(found)
    assert "more data" in text
    assert "x10 " in text
    assert json.loads(json.dumps(to_record(found), allow_nan=False))["more_data"][3]["multiple"] == 10


@pytest.mark.parametrize(("sizes", "verdict"), [(3, "its error is unknown"), (2, "needs 3 dataset sizes to fit")])
def test_few_dataset_sizes_of_one_model_are_named(tmp_path: Path, sizes: int, verdict: str) -> None:
    rows = [r for r in simulated_rows(bleu=True) if r["x"] == MODELS[0] and r["finetune_examples"] in EXAMPLES[:sizes]]
    found = fit_rows(tmp_path, rows).recommend(2e3, more_data=True)
    assert found.verdict == INCONCLUSIVE
    assert all(verdict in reason for reason in found.reasons)
    assert verdict in str(found)
    measured = {row["method"]: row["loss"] for row in found.measured}
    at = [(r["method"], r["loss"]) for r in rows if r["finetune_examples"] == 2e3 and r["x"] == MODELS[0]]
    assert measured == pytest.approx({m: np.mean([loss for name, loss in at if name == m]) for m in LAWS})
    assert ("\n  measured " in str(found)) == (sizes == 2)


def test_extrapolation_is_a_warning_and_widens_the_interval(fitted: Fitted) -> None:
    inside, beyond = fitted.recommend(16e3), fitted.recommend(64e3, further_sizes=(4e9,))
    assert not any("extrapolated" in text for text in inside.warnings)
    warnings = [text for text in beyond.warnings if "extrapolated" in text]
    assert any("dataset sizes (1,000 to 16,000)" in text for text in warnings)
    assert any("model sizes" in text for text in warnings)
    own = beyond.preferred.predictors["lora"]
    bare = dataclasses.replace(own, extrapolation_sd=dict.fromkeys(own.extrapolation_sd, 0.0))
    setting = (4e9, 4.0, 64e3)
    assert own.loss_replicates(*setting).std() > bare.loss_replicates(*setting).std()
    assert own.loss_replicates(*setting).mean() == pytest.approx(bare.loss_replicates(*setting).mean())
    assert own.loss_replicates(1e9, 4.0, 8e3) == pytest.approx(bare.loss_replicates(1e9, 4.0, 8e3))


def test_distance_is_in_widths_of_the_range() -> None:
    assert range_distance(50, (10, 100)) == 0
    assert range_distance(1000, (10, 100)) == pytest.approx(1)
    assert range_distance(10**-1, (10, 100)) == pytest.approx(2)
    assert range_distance(40, (10, 10)) == pytest.approx(2)  # a single value counts as a factor of two wide
    assert range_distance(10, (10, 10)) == 0


def test_outliers_among_the_replicates_do_not_dominate_the_mean() -> None:
    normal = np.random.default_rng(0).normal(4, 0.01, 200)
    assert clip_outliers(normal) == pytest.approx(normal)
    wild = normal.copy()
    wild[:3] = 1e6, np.inf, np.nan
    assert clip_outliers(wild).mean() == pytest.approx(4, abs=0.01)
    assert clip_outliers(np.full(200, 1e9)).max() == MAX_LOSS  # no loss is above that of a uniform guess


def test_too_few_points_are_inconclusive_with_a_reason(tmp_path: Path) -> None:
    rows = simulated_rows(noise=0.05, bleu=True)
    short = [r for r in rows if r["finetune_examples"] <= 2e3 and r["x"] < 1e9 and r["factor"] == "model"]
    fitted = fit_rows(tmp_path, short)
    found = fitted.recommend(16e3)
    assert found.verdict == INCONCLUSIVE
    assert found.reasons
    assert INCONCLUSIVE in str(found)


def test_a_method_that_could_not_be_fitted_is_named(tmp_path: Path) -> None:
    few = {"full": EXAMPLES[:2], "lora": EXAMPLES}
    rows = [r for r in simulated_rows(bleu=True) if r["finetune_examples"] in few[r["method"]]]
    fitted = fit_rows(tmp_path, [r for r in rows if r["method"] == "lora" or r["x"] == MODELS[0]])
    found = fitted.recommend(4e3)
    assert found.verdict == INCONCLUSIVE
    assert any(re.match(r"full\b", text) for text in found.reasons)
    assert set(found.preferred.predictors) == {"lora"}
    assert {c.method for c in (o.candidate for o in found.preferred.decision.estimates)} == {"lora"}
    with pytest.raises(DataError, match=r"simulated, full: .* multiplicative .*Fix: "):
        fitted.predict("full", 1e9, 4e3)


def test_suspicious_rows_and_a_single_method_are_warnings(fitted: Fitted) -> None:
    warnings = ("simulated, lora: line 7: odd.", "others, lora: line 9: odder.", "lines 1, 2: x is 7 parameters.")
    settings = fitted.table.settings
    others = settings.head(1).assign(task="others")
    table = dataclasses.replace(fitted.table, settings=pd.concat([settings, others]), warnings=warnings)
    found = dataclasses.replace(fitted, table=table).recommend(8e3, task="simulated")
    assert {warnings[0].rstrip("."), warnings[2].rstrip(".")} < set(found.warnings)
    assert warnings[1].rstrip(".") not in found.warnings
    assert "simulated, lora: line 7: odd" in str(found)
    assert set(found.candidates.rows) == {"full", "lora"}
    assert not any("only" in text for text in found.warnings)
    alone = dataclasses.replace(fitted.table, settings=settings[settings["method"] == "lora"])
    single = dataclasses.replace(fitted, table=alone).recommend(8e3)
    assert set(single.candidates.rows) == {"lora"}
    assert any(re.match(r"lora\b.*\bonly\b", text) for text in single.warnings)


def test_candidates_are_aligned_and_small_losses_keep_their_digits(fitted: Fitted) -> None:
    rows = [text for text in str(fitted.recommend(8e3)).splitlines() if "] " in text and " P(best) " in text]
    assert len({text.index("[") for text in rows}) == 1
    assert (_short(1.2345), _short(0.0012345), _short(0.0)) == ("1.234", "0.00123", "0.000")


def test_missing_pet_sizes_and_costs_are_reported(tmp_path: Path, fitted: Fitted) -> None:
    rows = simulated_rows(flops=True, pet_size=True, trainable_parameters=True, bleu=True)
    table = read_points(synthetic_points.write(tmp_path / "points.csv", rows))
    bare = dataclasses.replace(fitted, table=table)  # fits take none of these columns
    found = bare.recommend(4e3)
    assert {c.pet for c in found.candidates.costs} == {None}
    assert any("pet_size" in text for text in found.warnings)
    assert found.candidates.costs[found.chosen] is None
    assert "no column flops" in str(found)
    with pytest.raises(ConfigError, match="--budget: the cost of full, lora on simulated is unknown"):
        bare.recommend(4e3, "1e18flop")
    with pytest.raises(ConfigError, match="--next-run: the cost of full, lora"):
        bare.recommend(4e3, next_runs=1)
    analytic = bare.recommend(4e3, "1.5e15flop", tokens_per_example=TOKENS)
    assert [c for c in analytic.candidates.affordable if c.method == "full"] == [
        TuningCandidate("full", x) for x in MODELS[:2]
    ]


def test_the_record_is_json_and_holds_the_numbers_of_the_text(fitted: Fitted) -> None:
    found = fitted.recommend(8e3, "0.003usd@v5e", prices=PRICES, next_runs=2)
    record = json.loads(json.dumps(to_record(found), allow_nan=False))
    decision = record["decisions"]["multiplicative"]
    assert record["choice"]["cost"]["usd"] <= 0.003
    assert record["choice"]["affordable"]
    assert sum(one["probability_best"] for one in decision["estimates"]) == pytest.approx(1)
    assert len(record["candidates"]) == len(ALL)
    assert record["decisions"]["additive"]["chosen"]["method"]
    assert decision["without_budget"]["loss"] <= decision["chosen"]["loss"] + 1e-9
    text = str(found)
    for piece in ("of v5e at 40% of peak", f"{decision['chosen']['loss']:.3f}", "runner-up", "no budget"):
        assert piece in text, piece


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda f: f.recommend(0), "--finetune-examples=0 must be above zero"),
        (lambda f: f.recommend(0.5), "--finetune-examples=0.5 must be a count, from 1 to 1e+15"),
        (lambda f: f.recommend(1e20), "--finetune-examples=1e+20 must be a count, from 1 to 1e+15"),
        (lambda f: f.recommend(4e3, further_sizes=(0.1,)), "--sizes=0.1 must be a count, from 1 to 1e+18"),
        (lambda f: f.recommend(4e3, next_runs=-1), "next_runs=-1 must be 0"),
        (lambda f: f.recommend(4e3, task="other"), "--task = 'other' is unknown"),
        (lambda f: f.recommend(4e3, metric="rouge"), "--metric=rouge: the points have no metric column"),
        (lambda f: f.recommend(4e3, further_sizes=(-1.0,)), "--sizes=-1"),
        (lambda f: f.recommend(4e3, epochs=3.0), "--epochs needs --tokens-per-example"),
        (lambda f: f.predict("prompt", 1e9, 4e3), "method = 'prompt' is unknown"),
        (lambda f: f.predict("full", 4, 4e3, factor="pet"), "factor = 'pet' is unknown"),
        (lambda f: fit(f.table, ["none"]), "--task = 'none' is unknown"),
    ],
)
def test_invalid_arguments_are_named(fitted: Fitted, call, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        call(fitted)
    assert message in str(caught.value)


def test_the_best_supported_law_decides(fitted: Fitted, additive: Fitted) -> None:
    assert fitted.recommend(4e3).preferred.law == "multiplicative"
    assert additive.recommend(4e3).preferred.law == ADDITIVE.name
