"""Rows of what a run wrote, scored again: each in its own language, and what is no such row is named."""

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.evaluation.example_rows import decoded_examples, read_rows


def row(**changes: Any) -> dict[str, Any]:
    return {"source": "a\u2028b", "reference": "r", "loss_sum": 1.0, "tokens": 2, **changes}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(one, ensure_ascii=False) + "\n" for one in rows), encoding="utf-8")
    return path


def test_what_was_decoded_is_in_the_language_of_its_row_or_else_in_the_given_one(tmp_path):
    decoded = {"hypothesis": "h"}
    path = write(tmp_path / "rows", row(target_language="de", **decoded), row(), row(target_language="zh", **decoded))
    examples, texts = decoded_examples(path, read_rows(path), "")
    assert texts == ["h", "h"]
    assert [example["target_language"] for example in examples] == ["de", "zh"]
    assert examples[0] == {"source": "a\u2028b", "target": "r", "target_language": "de"}
    path = write(tmp_path / "older", row(**decoded))
    assert decoded_examples(path, read_rows(path), "fr")[0][0]["target_language"] == "fr"
    path = write(tmp_path / "code", row(target_language="zho_Hans", **decoded))
    assert decoded_examples(path, read_rows(path), "zh")[0][0]["target_language"] == "zho_Hans"


@pytest.mark.parametrize(
    ("rows", "language", "message"),
    [
        ([row()], "de", r"rows: no row has a hypothesis; score the run with --generate=N"),
        ([row(), row(hypothesis="h")], "", r"rows: its rows do not tell their language; give it as --target-language"),
        ([row(hypothesis="h", target_language="de")], "zh", r"rows: no row is of target language 'zh'; they are of de"),
        ([row(), [1]], "de", r"line 2: not a row of an evaluation; score the run again"),
        ([{"index": 0, "loss_sum": 1.0, "tokens": 3}], "de", r"line 1: not a row of an evaluation"),
    ],
)
def test_what_cannot_be_scored_is_named_by_file_and_line(rows, language, message, tmp_path):
    path = write(tmp_path / "rows", *rows)
    with pytest.raises(DataError, match=message):
        decoded_examples(path, read_rows(path), language)
