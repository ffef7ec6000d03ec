"""Rows of scored examples: languages of decoded rows, and errors for invalid rows."""

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


def test_decoded_examples_have_the_language_of_their_row_or_the_given_one(tmp_path, caplog):
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
    codes = ("zho_Hans", "yue_Hant", "zh-Latn", "de")
    path = write(tmp_path / "several", *[row(target_language=code, **decoded) for code in codes])
    with caplog.at_level("INFO"):
        assert [one["target_language"] for one in decoded_examples(path, read_rows(path), "zh")[0]] == ["zho_Hans"]
    assert "other languages (de, yue_Hant, zh-Latn)" in caplog.text


@pytest.mark.parametrize(
    ("rows", "language", "message"),
    [
        ([row()], "de", r"rows: no row has a hypothesis; score the run with --generate=N"),
        ([row(), row(hypothesis="h")], "", r"rows: .*--target-language"),
        ([row(hypothesis="h", target_language="de")], "zh", r"rows: no row has target language 'zh'; give one of de"),
        ([row(), row(target_language=7)], "de", r"line 2: target_language is 7, which has the wrong type"),
        ([row(), [1]], "de", r"line 2: expected a JSON object"),
        ([{"index": 0, "loss_sum": 1.0, "tokens": 3}], "de", r"line 1: the field 'source' is missing"),
    ],
)
def test_rows_that_cannot_be_scored_are_named(rows, language, message, tmp_path):
    path = write(tmp_path / "rows", *rows)
    with pytest.raises(DataError, match=message):
        decoded_examples(path, read_rows(path), language)


def test_a_byte_order_mark_is_dropped_at_the_start_and_refused_elsewhere(tmp_path):
    path = tmp_path / "rows"
    text = json.dumps(row()) + "\n"
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert read_rows(path) == [row()]
    path.write_text(text + "\ufeff" + text, encoding="utf-8")
    with pytest.raises(DataError, match="line 2 begins with a byte order mark"):
        read_rows(path)
