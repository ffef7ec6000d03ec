"""Prices of chips in US dollars per chip-hour, on demand and spot, each with its date and source.

Prices change and differ by region, and those of TPUs were not checked on Google's page: look them up before you spend
money, and change them here, or for one command by --prices.v5e.on_demand=1.1. An empty price is unknown: Google's spot
prices of TPUs change up to once a month (https://cloud.google.com/spot-vms/pricing).
"""

from ml_collections import ConfigDict, config_dict

TPUS = "not checked against https://cloud.google.com/tpu/pricing"


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "v4": price(3.22, None, "2025", TPUS),
            "v5e": price(1.20, None, "2025", TPUS),
            "v5p": price(4.20, None, "2025", TPUS),
            "v6e": price(2.70, None, "2025", TPUS),
            "a100": price(3.4309, None, "2026-11-09", "AWS p4de.24xlarge, us-east-1, an eighth of 27.44705"),
            "h100": price(6.88, None, "2026-11-09", "AWS p5.48xlarge, us-east-1, an eighth of 55.04"),
            "h200": price(
                10.4365, 6.2607, "2026-10-13", "Google a3-ultragpu-8g, us-central1, an eighth of the machine"
            ),
            "cpu": price(None, None, "", "your own machine"),
        }
    )


def price(on_demand: float | None, spot: float | None, date: str, source: str) -> dict:
    amounts = {"on_demand": on_demand, "spot": spot}
    kept = {name: config_dict.placeholder(float) if usd is None else usd for name, usd in amounts.items()}
    return {**kept, "date": date, "source": source}
