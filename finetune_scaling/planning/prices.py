"""Prices of chips, read from a config such as configs/prices.py."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.chips import CHIPS


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


@dataclasses.dataclass(frozen=True)
class Cost:
    """Cost in US dollars, on demand and spot; None if the price is unknown."""

    on_demand: float | None
    spot: float | None


def read_prices(config: Mapping[str, Any]) -> dict[str, Price]:
    """Return prices by kind of chip. Raises ConfigError that names a wrong field or an unknown kind."""
    for kind in config:
        configuration.choose(CHIPS, kind, "prices: the kind of chip")
    return {kind: configuration.build(Price, fields, f"prices.{kind}") for kind, fields in config.items()}


Prices = Mapping[str, Price]


def price_of(prices: Prices, kind: str) -> Price:
    """Return the price of a kind of chip. Raises ConfigError if the table lacks it."""
    if kind not in prices:
        raise ConfigError(f"prices.{kind} is missing; add it to the config of --prices, with empty fields if unknown")
    return prices[kind]


def cost(price: Price, chip_hours: float | None) -> Cost:
    """Return the cost of chip-hours; None if they or the price are unknown."""

    def times(usd: float | None) -> float | None:
        return None if usd is None or chip_hours is None else usd * chip_hours

    return Cost(times(price.on_demand), times(price.spot))
