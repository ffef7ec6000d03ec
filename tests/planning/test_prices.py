"""Prices: the shipped table, and errors in others."""

import pytest

from finetune_scaling.chips import CHIPS
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.default_prices import default_prices
from finetune_scaling.planning.prices import Price, cost, price_of, read_prices


def test_the_shipped_prices_cover_every_chip_with_source_and_date() -> None:
    prices = read_prices(default_prices())
    assert set(prices) == set(CHIPS)
    assert all(price.source for price in prices.values())
    assert all(price.date for price in prices.values() if price.on_demand is not None)


def test_unknown_prices_stay_unknown() -> None:
    assert cost(Price(2.0, None, "", ""), 3.0) == {"on_demand": 6.0, "spot": None}
    assert cost(Price(2.0, 1.0, "", ""), None) == {"on_demand": None, "spot": None}


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"v5f": {}}, "did you mean 'v5"),
        ({"v5e": {"on_demand": 1.0, "spot": -0.5, "date": "", "source": ""}}, "spot = -0.5"),
        ({"v5e": {"on_demand": "cheap", "spot": None, "date": "", "source": ""}}, "prices.v5e.on_demand"),
        ({"v5e": {"on_demand": 1.0, "spot": None, "date": ""}}, "prices.v5e.source is missing"),
    ],
)
def test_mistakes_in_prices_are_errors(table: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_prices(table)


def test_missing_price_is_named() -> None:
    with pytest.raises(ConfigError, match="h100"):
        price_of({}, "h100")
