"""Prices of chips in US dollars per chip-hour, on demand and spot, each with its date and source.

Prices change and differ by region, and those of TPUs were not checked on Google's page: look them up before you spend
money, and change them by --prices.v5e.on_demand=1.1 or by a config of your own, --prices=FILE. None is an unknown
price: Google's spot prices of TPUs change up to once a month (https://cloud.google.com/spot-vms/pricing).
"""

from typing import Any

TPUS = "not checked against https://cloud.google.com/tpu/pricing"


def default_prices() -> dict[str, Any]:
    """Return the fields of every chip's Price, by kind of chip; a new mapping, which the command line can change."""
    return {
        "v4": _price(3.22, None, "2025", TPUS),
        "v5e": _price(1.20, None, "2025", TPUS),
        "v5p": _price(4.20, None, "2025", TPUS),
        "v6e": _price(2.70, None, "2025", TPUS),
        "a100": _price(3.4309, None, "2026-11-09", "AWS p4de.24xlarge, us-east-1, an eighth of 27.44705"),
        "h100": _price(6.88, None, "2026-11-09", "AWS p5.48xlarge, us-east-1, an eighth of 55.04"),
        "h200": _price(10.4365, 6.2607, "2026-10-13", "Google a3-ultragpu-8g, us-central1, an eighth of the machine"),
        "cpu": _price(None, None, "", "your own machine"),
    }


def _price(on_demand: float | None, spot: float | None, date: str, source: str) -> dict[str, Any]:
    return {"on_demand": on_demand, "spot": spot, "date": date, "source": source}
