"""Budgets as a user writes them: 1e20flop, 300chip-hours@v5e, 500usd or 500usd@v5e."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.chips import Chip, find_chip
from finetune_scaling.planning.prices import Prices, price_of
from finetune_scaling.planning.totals import SECONDS_AN_HOUR

FORMS = "--budget=1e20flop, --budget=300chip-hours@v5e or --budget=500usd@v5e"
UTILISATION = 0.4
_NUMBER = r"(?P<amount>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?)"
_FORM = re.compile(rf"{_NUMBER}\s*(?P<unit>flops?|chip-hours?|usd)(@(?P<kind>[\w-]+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """A budget of one run in FLOPs. text: as it was written; chip: whose hours or money it is, None of FLOPs alone."""

    text: str
    flops: float
    chip: Chip | None


@dataclass(frozen=True)
class Rates:
    """What FLOPs cost in time and money: prices by kind of chip, and the assumed model FLOPs utilisation."""

    prices: Prices
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ConfigError(f"--utilisation={self.utilisation} must be above 0 and at most 1, a share of the peak")

    def chip_hours(self, flops: float, chip: Chip) -> float:
        """Hours of one chip at the assumed share of its peak."""
        return flops / (chip.peak_flops * self.utilisation) / SECONDS_AN_HOUR

    def flops(self, chip_hours: float, chip: Chip) -> float:
        """What so many hours of one chip compute; the inverse of chip_hours."""
        return chip_hours * SECONDS_AN_HOUR * chip.peak_flops * self.utilisation

    def cheapest(self, chips: Mapping[str, Chip]) -> Chip:
        """The kind with the least price of an operation; ConfigError where no price is known."""
        priced = {kind: price.on_demand for kind, price in self.prices.items() if price.on_demand}
        if not priced:
            raise ConfigError("the config of --prices has no price on demand; add one, or give a budget of FLOPs")
        return chips[min(priced, key=lambda kind: priced[kind] / chips[kind].peak_flops)]


def read_budget(text: str, rates: Rates, chips: Mapping[str, Chip]) -> Budget:
    """A budget from its text; ConfigError that shows the forms, or names an unknown kind of chip or price."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ConfigError(f"--budget={text} is no budget; write it as {FORMS}")
    amount, unit, kind = float(form["amount"]), form["unit"].lower(), form["kind"]
    if not 0 < amount < math.inf:
        raise ConfigError(f"--budget={text} must be above zero and finite")
    if unit.startswith("flop"):
        if kind:
            raise ConfigError(f"--budget={text}: FLOPs are the same on every chip; leave @{kind} out")
        return Budget(text, amount, None)
    if unit.startswith("chip"):
        if not kind:
            raise ConfigError(f"--budget={text}: say of which chip, as in --budget={text}@v5e")
        chip = find_chip(kind, "--budget: the kind of chip")
        return Budget(text, rates.flops(amount, chip), chip)
    chip = find_chip(kind, "--budget: the kind of chip") if kind else rates.cheapest(chips)
    usd = price_of(rates.prices, chip.kind).on_demand
    if not usd:
        raise ConfigError(f"--budget={text}: no price of {chip.kind} is known; give --prices.{chip.kind}.on_demand=...")
    return Budget(text, rates.flops(amount / usd, chip), chip)
