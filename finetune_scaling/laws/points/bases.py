"""The table of base models: one row per model and number of pretraining tokens, with its loss on held-out text."""

import logging

import pandas as pd

from finetune_scaling.errors import DataError, EmptyTableError
from finetune_scaling.files import Location
from finetune_scaling.laws.points.cells import (
    check_counts,
    check_range,
    parse_flags,
    parse_losses,
    parse_names,
    parse_numbers,
)
from finetune_scaling.laws.points.checks import check_units
from finetune_scaling.laws.points.columns import SIZE_COUNTS, SIZES
from finetune_scaling.laws.points.text import Source, read_text

BASES = "bases.csv"  # in the directory of a study's points
REQUIRED = ("family", "model", "parameters", "pretrain_tokens", "loss", "held_out")
MAX_COUNT = 1e18

log = logging.getLogger(__name__)


def read_bases(source: Source, size: str = "total") -> pd.DataFrame:
    """Read and check a table of base models: columns family, model, size, pretrain_tokens, loss (nats), held_out.

    size: which count of parameters the column `size` takes, total or non_embedding. Raises DataError as read_points.
    """
    text = read_text(source, REQUIRED)
    check_units(text, "family")
    bases = pd.DataFrame({column: parse_names(text, column) for column in ("family", "model")})
    for name, column in (("size", SIZE_COUNTS[SIZES.index(size)]), ("pretrain_tokens", "pretrain_tokens")):
        if column not in text.cells:
            raise DataError(f"{text.header}: column {column!r} is missing; add it or use --size=total")
        bases[name] = parse_numbers(text, column, positive=True, exact=True)
        check_range(text, bases[name], column, 1, MAX_COUNT, "it is a raw count: 7B is 7e9")
        check_counts(text, bases[name], column)
    bases["loss"] = parse_losses(text)
    bases["held_out"] = parse_flags(text, "held_out")
    repeated = bases.duplicated(["family", "size", "pretrain_tokens"])
    text.reject(repeated, "loss", "this base model and number of tokens appear twice; keep one row")
    if (unusable := bases["loss"].isna()).any():
        log.warning("%s: no law uses the loss of %s", text.name, text.rows(list(bases.index[unusable])))
    return bases[~unusable].reset_index(drop=True)


def find_bases(points: Location | None, size: str) -> pd.DataFrame | None:
    """Return the table of base models in the directory of a table of points, or None if it has none or no rows."""
    path = None if points is None else points.parent / BASES
    if path is None or not path.is_file():
        return None
    try:
        bases = read_bases(path, size)
        return None if bases.empty else bases
    except EmptyTableError:  # earlier versions wrote it for studies of public models
        log.info("%s has no rows, so no pretraining law is fitted", path)
        return None
