"""Costs, budgets and storage: known power laws, the analytic formula, and missing columns."""

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.chips import CHIPS
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.prices import Price
from finetune_scaling.recommendation.budget import Rates, read_budget
from finetune_scaling.recommendation.candidates import TuningCandidate
from finetune_scaling.recommendation.cost import analytic_cost, fitted_cost
from finetune_scaling.recommendation.pet_defaults import PetDefault, pet_default
from finetune_scaling.recommendation.storage import candidate_storage

PRICES = {kind: Price(usd, None, "2026", "a test") for kind, usd in (("v5e", 1.0), ("h100", 8.0), ("cpu", None))}
RATES = Rates(PRICES, 0.5)


def points(noise: float = 0.0, flops: bool = True) -> pd.DataFrame:
    """LoRA at three sizes, four numbers of examples, and three ranks on the smallest model."""
    random = np.random.default_rng(0)
    rows = [("model", x, 4.0, x, d) for x in (1e6, 3e6, 9e6) for d in (100, 200, 400, 800)]
    rows += [("pet", p, p, 1e6, d) for p in (2.0, 4.0, 8.0) for d in (100, 200, 400, 800)]
    table = pd.DataFrame(rows, columns=["factor", "x", "pet_size", "parameters", "finetune_examples"])
    table["loss"] = table["finetune_examples"] ** -0.1 + table["parameters"] ** -0.1 + (table["pet_size"] - 4) ** 2
    if flops:
        true_cost = 7 * table["parameters"] ** 1.1 * table["finetune_examples"] ** 0.6 * table["pet_size"] ** 0.2
        table["flops"] = true_cost * np.exp(random.normal(0, noise, len(table)))
    return table.assign(method="lora", held_out=False)


def test_a_known_power_law_of_costs_is_recovered() -> None:
    model = fitted_cost(points(), pet_default(points()))
    assert model is not None
    assert model.exponents == {k: pytest.approx(v) for k, v in {"size": 1.1, "examples": 0.6, "pet": 0.2}.items()}
    assert model(2e7, 5000, 16).flops == pytest.approx(7 * 2e7**1.1 * 5000**0.6 * 16**0.2)


def test_the_interval_of_a_cost_has_its_nominal_coverage() -> None:
    held = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        table = points()
        table["flops"] *= np.exp(random.normal(0, 0.2, len(table)))
        cost = fitted_cost(table, pet_default(table))(2e7, 2000, 4)
        new = 7 * 2e7**1.1 * 2000**0.6 * 4**0.2 * np.exp(random.normal(0, 0.2))
        held += cost.low <= new <= cost.high
    assert 0.84 <= held / 150 <= 0.96


def test_quantities_that_do_not_vary_have_the_assumed_exponents() -> None:
    table = points()
    one = table[(table["finetune_examples"] == 100) & (table["factor"] == "model")]
    model = fitted_cost(one, PetDefault(4.0, 1e6))
    assert (model.exponents["examples"], model.exponents["pet"]) == (1.0, 0.0)
    assert model(1e6, 300, 4).flops == pytest.approx(3 * one["flops"].iloc[0])
    single = fitted_cost(one.iloc[:1], PetDefault(4.0, 1e6))(1e6, 100, 4)
    assert (single.flops, single.low, single.high) == (pytest.approx(one["flops"].iloc[0]), None, None)


@pytest.mark.parametrize(("method", "per_token"), [("full", 6), ("lora", 4), ("prompt", 4)])
def test_analytic_costs_are_6n_or_4n_a_token(method: str, per_token: int) -> None:
    assert analytic_cost(method, 128, 3)(1e9, 1000, None).flops == per_token * 1e9 * 128 * 1000 * 3


def test_without_flops_and_of_unregistered_methods_costs_are_unknown() -> None:
    assert fitted_cost(points(flops=False), PetDefault()) is None
    with pytest.raises(ConfigError, match="norms"):
        analytic_cost("norms", 100, 1)


def test_the_default_pet_size_is_read_from_columns_or_from_a_shared_run() -> None:
    assert pet_default(points()) == PetDefault(4.0, 1e6)
    assert pet_default(points().drop(columns=["pet_size", "parameters"])) == PetDefault(4.0, 1e6)
    apart = points().drop(columns=["pet_size", "parameters"])
    apart.loc[apart["factor"] == "pet", "loss"] += 0.01
    assert pet_default(apart) == PetDefault(None, None)


def test_budgets_in_their_three_forms_agree() -> None:
    flops = 10 * 3600 * CHIPS["v5e"].peak_flops * 0.5
    for text in (f"{flops!r}flop", f"{flops!r}FLOPs", "10chip-hours@v5e", "10usd@v5e", "1e1 usd@v5e"):
        assert read_budget(text, RATES).flops == pytest.approx(flops), text
    assert RATES.chip_hours(flops, CHIPS["v5e"]) == pytest.approx(10)


def test_money_without_a_chip_buys_the_cheapest_operations() -> None:
    per_dollar = {kind: CHIPS[kind].peak_flops / PRICES[kind].on_demand for kind in ("v5e", "h100")}
    assert read_budget("5usd", RATES).chip.kind == max(per_dollar, key=per_dollar.get)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e20", "1e20flop, --budget=300chip-hours@v5e or --budget=500usd@v5e"),
        ("", "is not a budget"),
        ("-3usd", "is not a budget"),
        ("0flop", "above zero"),
        ("1e999flop", "finite"),
        ("3chip-hours", "kind of chip is missing"),
        ("3chip-hours@v5x", "did you mean 'v5p'"),
        ("3flop@v5e", "remove @v5e"),
        ("3usd@cpu", "cpu has no on-demand price"),
        ("3usd@v4", "v4"),
    ],
)
def test_malformed_budgets_are_errors(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_budget(text, RATES)
    assert message in str(caught.value)


def test_storage_is_measured_or_predicted_by_a_power_law() -> None:
    table = points().assign(trainable_parameters=lambda t: (t["parameters"] ** 0.5 * t["pet_size"]).map(str))
    pet = pet_default(table)
    candidates = [TuningCandidate("lora", 1e6, 8.0), TuningCandidate("lora", 4e6, 8.0)]
    found = candidate_storage(table, pet, candidates)
    assert (found[candidates[0]].parameters, found[candidates[0]].measured) == (8000, True)
    assert (found[candidates[1]].parameters, found[candidates[1]].measured) == (pytest.approx(16000), False)
    assert found[candidates[0]].bytes == 32000
    one = table[(table["factor"] == "model") & (table["x"] == 1e6)]
    assert candidate_storage(one, pet, candidates) == {candidates[0]: None, candidates[1]: None}
    assert candidate_storage(points(), pet, candidates) == {candidates[0]: None, candidates[1]: None}
    model = TuningCandidate("full", 2e6)
    assert candidate_storage(points(), PetDefault(), [model])[model].parameters == 2e6
