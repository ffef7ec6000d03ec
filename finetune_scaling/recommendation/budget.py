"""Parse budgets: 1e20flop, 300chip-hours@v5e, 500usd or 500usd@v5e."""

import math
import re
from dataclasses import dataclass

from finetune_scaling.chips import CHIPS, Chip, find_chip
from finetune_scaling.errors import ConfigError
from finetune_scaling.planning.prices import Prices, price_of
from finetune_scaling.planning.totals import SECONDS_PER_HOUR

FORMS = "--budget=1e20flop, --budget=300chip-hours@v5e or --budget=500usd@v5e"
UTILISATION = 0.4
_NUMBER = r"(?P<amount>\d+(\.\d*)?([eE][+-]?\d+)?|\.\d+([eE][+-]?\d+)?)"
_FORM = re.compile(rf"{_NUMBER}\s*(?P<unit>flops?|chip-hours?|usd)(@(?P<kind>[\w-]+))?", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """The budget of one run in FLOPs; text: as given; chip: the chip of hours or money, None if given in FLOPs."""

    text: str
    flops: float
    chip: Chip | None


@dataclass(frozen=True)
class Rates:
    """Conversion of FLOPs to time and money: prices by kind of chip and the assumed model FLOPs utilisation."""

    prices: Prices
    utilisation: float = UTILISATION

    def __post_init__(self) -> None:
        if not 0 < self.utilisation <= 1:
            raise ConfigError(f"--utilisation={self.utilisation} must be above 0 and at most 1 (a share of the peak)")

    def chip_hours(self, flops: float, chip: Chip) -> float:
        """Return the hours of one chip at the assumed utilisation."""
        return flops / (chip.peak_flops * self.utilisation) / SECONDS_PER_HOUR

    def flops(self, chip_hours: float, chip: Chip) -> float:
        """Return the FLOPs of `chip_hours` hours of one chip at the assumed utilisation."""
        return chip_hours * SECONDS_PER_HOUR * chip.peak_flops * self.utilisation

    def cheapest(self) -> Chip:
        """Return the chip with the lowest price per FLOP; raises ConfigError if no price is known."""
        priced = {kind: price.on_demand for kind, price in self.prices.items() if price.on_demand}
        if not priced:
            raise ConfigError(
                "the config of --prices has no on-demand price. Fix: add one, or give the budget in FLOPs"
            )
        return CHIPS[min(priced, key=lambda kind: priced[kind] / CHIPS[kind].peak_flops)]


def read_budget(text: str, rates: Rates) -> Budget:
    """Parse a budget; raises ConfigError that lists the valid forms or names the unknown chip or price."""
    form = _FORM.fullmatch(text.strip())
    if form is None:
        raise ConfigError(f"--budget={text} is not a budget. Fix: write {FORMS}")
    amount, unit, kind = float(form["amount"]), form["unit"].lower(), form["kind"]
    if not 0 < amount < math.inf:
        raise ConfigError(f"--budget={text} must be above zero and finite. Fix: write {FORMS}")
    if unit.startswith("flop"):
        if kind:
            raise ConfigError(f"--budget={text}: FLOPs do not depend on the chip. Fix: remove @{kind}")
        return Budget(text, amount, None)
    if unit.startswith("chip"):
        if not kind:
            raise ConfigError(f"--budget={text}: the kind of chip is missing. Fix: for example --budget={text}@v5e")
        chip = find_chip(kind, "--budget: the kind of chip")
        return Budget(text, rates.flops(amount, chip), chip)
    chip = find_chip(kind, "--budget: the kind of chip") if kind else rates.cheapest()
    usd = price_of(rates.prices, chip.kind).on_demand
    if not usd:
        raise ConfigError(
            f"--budget={text}: {chip.kind} has no on-demand price. Fix: set --prices.{chip.kind}.on_demand=..."
        )
    return Budget(text, rates.flops(amount / usd, chip), chip)
