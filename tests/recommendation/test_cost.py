"""Costs, budgets and storage: planted power laws, the analytic formula, and what cannot be told."""

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.chips import CHIPS
from finetune_scaling.planning.prices import Price
from finetune_scaling.recommendation.budget import Rates, read_budget
from finetune_scaling.recommendation.candidates import Candidate
from finetune_scaling.recommendation.cost import analytic_cost, cost_models, learned_cost
from finetune_scaling.recommendation.pet import PetDefault, pet_default
from finetune_scaling.recommendation.storage import stored

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
        planted = 7 * table["parameters"] ** 1.1 * table["finetune_examples"] ** 0.6 * table["pet_size"] ** 0.2
        table["flops"] = planted * np.exp(random.normal(0, noise, len(table)))
    return table.assign(method="lora", held_out=False)


def test_a_planted_power_law_of_costs_is_found() -> None:
    model = learned_cost(points(), pet_default(points()))
    assert model is not None
    assert model.exponents == {k: pytest.approx(v) for k, v in {"size": 1.1, "examples": 0.6, "pet": 0.2}.items()}
    assert model(2e7, 5000, 16).flops == pytest.approx(7 * 2e7**1.1 * 5000**0.6 * 16**0.2)


def test_the_interval_of_a_cost_holds_new_runs_as_often_as_it_says() -> None:
    held = 0
    for seed in range(150):
        random = np.random.default_rng(seed)
        table = points()
        table["flops"] *= np.exp(random.normal(0, 0.2, len(table)))
        cost = learned_cost(table, pet_default(table))(2e7, 2000, 4)
        new = 7 * 2e7**1.1 * 2000**0.6 * 4**0.2 * np.exp(random.normal(0, 0.2))
        held += cost.low <= new <= cost.high
    assert 0.84 <= held / 150 <= 0.96


def test_quantities_that_do_not_vary_take_the_stated_exponents() -> None:
    table = points()
    one = table[(table["finetune_examples"] == 100) & (table["factor"] == "model")]
    model = learned_cost(one, PetDefault(4.0, 1e6))
    assert (model.exponents["examples"], model.exponents["pet"]) == (1.0, 0.0)
    assert model(1e6, 300, 4).flops == pytest.approx(3 * one["flops"].iloc[0])
    single = learned_cost(one.iloc[:1], PetDefault(4.0, 1e6))(1e6, 100, 4)
    assert (single.flops, single.low, single.high) == (pytest.approx(one["flops"].iloc[0]), None, None)


@pytest.mark.parametrize(("method", "per_token"), [("full", 6), ("lora", 4), ("prompt", 4)])
def test_analytic_costs_are_6n_or_4n_a_token(method: str, per_token: int) -> None:
    assert analytic_cost(method, 128, 3)(1e9, 1000, None).flops == per_token * 1e9 * 128 * 1000 * 3


def test_without_flops_costs_are_unknown_unless_tokens_are_given() -> None:
    table = points(flops=False)
    assert cost_models(table, {"lora": PetDefault()}, None, 1) == {}
    assert set(cost_models(table, {"lora": PetDefault()}, 100, 1)) == {"lora"}
    with pytest.raises(ConfigError, match="whether dora trains the base's weights is not known"):
        cost_models(table, {"dora": PetDefault()}, 100, 1)


def test_the_default_pet_size_is_read_from_columns_or_from_a_shared_run() -> None:
    assert pet_default(points()) == PetDefault(4.0, 1e6)
    assert pet_default(points().drop(columns=["pet_size", "parameters"])) == PetDefault(4.0, 1e6)
    apart = points().drop(columns=["pet_size", "parameters"])
    apart.loc[apart["factor"] == "pet", "loss"] += 0.01
    assert pet_default(apart) == PetDefault(None, None)


def test_budgets_in_their_three_forms_agree() -> None:
    flops = 10 * 3600 * CHIPS["v5e"].peak_flops * 0.5
    for text in (f"{flops!r}flop", f"{flops!r}FLOPs", "10chip-hours@v5e", "10usd@v5e", "1e1 usd@v5e"):
        assert read_budget(text, RATES, CHIPS).flops == pytest.approx(flops), text
    assert RATES.chip_hours(flops, CHIPS["v5e"]) == pytest.approx(10)


def test_money_without_a_chip_buys_the_cheapest_operations() -> None:
    per_dollar = {kind: CHIPS[kind].peak_flops / PRICES[kind].on_demand for kind in ("v5e", "h100")}
    assert read_budget("5usd", RATES, CHIPS).chip.kind == max(per_dollar, key=per_dollar.get)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1e20", "1e20flop, --budget=300chip-hours@v5e or --budget=500usd@v5e"),
        ("", "is no budget"),
        ("-3usd", "is no budget"),
        ("0flop", "above zero"),
        ("1e999flop", "finite"),
        ("3chip-hours", "say of which chip"),
        ("3chip-hours@v5x", "did you mean 'v5p'"),
        ("3flop@v5e", "leave @v5e out"),
        ("3usd@cpu", "no price of cpu is known"),
        ("3usd@v4", "prices has no v4"),
    ],
)
def test_malformed_budgets_are_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_budget(text, RATES, CHIPS)
    assert message in str(caught.value)


def test_storage_is_measured_where_it_can_be_and_scaled_elsewhere() -> None:
    table = points().assign(trainable_parameters=lambda t: (t["parameters"] ** 0.5 * t["pet_size"]).map(str))
    pet = pet_default(table)
    asked = [Candidate("lora", 1e6, 8.0), Candidate("lora", 4e6, 8.0)]
    found = stored(table, pet, asked)
    assert (found[asked[0]].parameters, found[asked[0]].measured) == (8000, True)
    assert (found[asked[1]].parameters, found[asked[1]].measured) == (pytest.approx(16000), False)
    assert found[asked[0]].bytes == 32000
    one = table[(table["factor"] == "model") & (table["x"] == 1e6)]
    assert stored(one, pet, asked) == {asked[0]: None, asked[1]: None}
    assert stored(points(), pet, asked) == {asked[0]: None, asked[1]: None}
    whole = Candidate("full", 2e6)
    assert stored(points(), PetDefault(), [whole])[whole].parameters == 2e6
