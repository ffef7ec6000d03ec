"""The table of bases: one row a base model and number of pretraining tokens, with its loss on held-out text."""

import pandas as pd

from finetune_scaling.errors import DataError
from finetune_scaling.files import Location
from finetune_scaling.laws.points.checks import check_filled, check_range, to_flags, to_numbers
from finetune_scaling.laws.points.text import Source, read_text
from finetune_scaling.laws.points.units import check_units, in_nats

BASES = "bases.csv"  # beside a study's points
REQUIRED_OF_BASES = ("family", "model", "parameters", "pretrain_tokens", "loss", "held_out")
MOST = 1e18


def read_bases(source: Source, size: str = "total") -> pd.DataFrame:
    """Reads and checks a table of bases: columns family, model, size, pretrain_tokens, loss (nats), held_out.

    size: which count of parameters the column `size` takes, total or non_embedding. Raises DataError as read_points.
    """
    text = read_text(source, REQUIRED_OF_BASES)
    for column in ("family", "model"):
        check_filled(text, column)
    check_units(text, ("family",))
    found = text.cells[["family", "model"]].copy()
    counted = "parameters" if size == "total" else "parameters_non_embedding"
    for name, column in (("size", counted), ("pretrain_tokens", "pretrain_tokens")):
        if column not in text.cells:
            raise DataError(f"{text.header}: column {column!r} is missing; add it or use --size=total")
        found[name] = to_numbers(text, column, positive=True)
        check_range(text, found[name], column, 1, MOST, "it is a raw count: 7B is 7e9")
    found["loss"] = in_nats(text, to_numbers(text, "loss", positive=True))
    found["held_out"] = to_flags(text, "held_out")
    again = found.index[found.duplicated(["family", "size", "pretrain_tokens"])]
    if len(again):
        raise DataError(f"{text.at(again[0], 'loss')}: this base and number of tokens stand twice; keep one of them")
    return found.reset_index(drop=True)


def bases_beside(points: Location | None, size: str) -> pd.DataFrame | None:
    """The table of bases in the directory of a table of points; None where there is none."""
    path = None if points is None else points.parent / BASES
    return read_bases(path, size) if path is not None and path.is_file() else None
