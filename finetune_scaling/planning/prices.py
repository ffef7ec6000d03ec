"""Prices of chips, read from a config such as default_prices.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.chips import CHIPS
from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Price:
    """Price of a chip-hour in US dollars (None: unknown), with the date and source of the figure."""

    on_demand: float | None
    spot: float | None
    date: str
    source: str

    def __post_init__(self) -> None:
        for name in ("on_demand", "spot"):
            value = getattr(self, name)
            if value is not None and value < 0:
                raise ConfigError(f"prices: {name} = {value} must not be negative")


Prices = Mapping[str, Price]  # by kind of chip


def read_prices(config: Mapping[str, Any]) -> dict[str, Price]:
    """Return prices by kind of chip. Raises ConfigError that names a wrong field or an unknown kind."""
    for kind in config:
        configuration.choose(CHIPS, kind, "prices: the kind of chip")
    return {kind: configuration.build(Price, fields, f"prices.{kind}") for kind, fields in config.items()}


def price_of(prices: Prices, kind: str) -> Price:
    """Return the price of a kind of chip. Raises ConfigError if the table lacks it."""
    if kind not in prices:
        raise ConfigError(f"prices.{kind} is missing; add it to the config of --prices, with empty fields if unknown")
    return prices[kind]


def cost(price: Price, chip_hours: float | None) -> dict[str, float | None]:
    """Return the cost of chip-hours in US dollars, on_demand and spot; None if they or the price are unknown."""
    usd = {"on_demand": price.on_demand, "spot": price.spot}
    return {name: None if one is None or chip_hours is None else one * chip_hours for name, one in usd.items()}
