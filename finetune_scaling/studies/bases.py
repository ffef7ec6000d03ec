"""From the records of pretraining to the table of bases: dev loss of every base at every number of tokens kept."""

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_scaling.files import write_atomically
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.studies.configs import Base
from finetune_scaling.studies.grid import StudyConfig

BASES = "bases.csv"
BASE_COLUMNS = (
    *("family", "model", "parameters", "parameters_non_embedding", "pretrain_tokens", "loss", "held_out"),
    *("flops", "learning_rate", "tokenizer"),
)


def write_bases(study: StudyConfig, workdir: Path) -> int:
    """Writes bases.csv: a row for every base and token count kept that has a dev loss. Returns their number.

    Public models have none: on which text, nobody says.
    """
    own = (name for name, family in study.families.items() if family.public is None)
    rows = [row for family in own for row in _rows(study, workdir, family)]
    text = io.StringIO()
    writer = csv.DictWriter(text, BASE_COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomically(workdir / BASES, text.getvalue())
    return len(rows)


def _rows(study: StudyConfig, workdir: Path, name: str) -> Iterator[dict[str, Any]]:
    family = study.families[name]
    for size in family.sizes:
        record = RunDirectory(Base(name, size).directory(workdir)).result
        if record is None:
            continue
        per_step = record["tokens_seen"] / record["steps"]
        for tokens in family.tokens:
            step = round(tokens / per_step)
            loss = record["dev_losses"].get(str(step))
            if loss is not None:
                yield {
                    "family": name,
                    "model": size,
                    "parameters": record["parameters"],
                    "parameters_non_embedding": record["parameters_non_embedding"],
                    "pretrain_tokens": tokens,
                    "loss": loss,
                    "held_out": int(size in family.held_out_sizes or tokens in family.held_out_tokens),
                    "flops": record["flops"] * step / record["steps"],
                    "learning_rate": record["learning_rate"],
                    "tokenizer": record["tokenizer_sha256"],
                }
