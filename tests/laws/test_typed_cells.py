"""Cells are typed once for CSV, JSONL and frames: equal values compare as equal, and ambiguous ones are refused."""

import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.errors import DataError
from finetune_scaling.laws.fitting.csv_fit import fit_csv
from finetune_scaling.laws.fitting.huber_fit import FitSettings
from finetune_scaling.laws.forms.library import SINGLE
from finetune_scaling.laws.points.bases import read_bases
from finetune_scaling.laws.points.number_syntax import read_integer, read_number
from finetune_scaling.laws.points.table import PointsTable, read_points
from finetune_scaling.laws.points.text import has_control_characters, printable
from finetune_scaling.laws.uncertainty.bootstrap import Resampling

ROW = {
    **dict.fromkeys(("parameters", "steps", "best_step", "bleu", "stopped_by"), ""),
    **dict.fromkeys(("seed", "held_out"), "0"),
    "task": "t",
    "method": "lora",
    "factor": "model",
    "x": "1000",
    "finetune_examples": "100",
    "loss": "1.5",
}
KINDS = ("csv", "jsonl", "frame")


def read(kind: str, folder: Path, *changes: dict[str, str]) -> PointsTable:
    """Return the table of one row per change, read from a file or frame of text."""
    rows = [ROW | change for change in changes]
    if kind == "frame":
        return read_points(pd.DataFrame(rows))
    path = folder / f"points.{kind}"
    if kind == "csv":
        pd.DataFrame(rows).to_csv(path, index=False)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return read_points(path)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seeds", [("0", "0.0", "00"), ("-0", "+0", "0e0"), ("7", " 7 ", "7."), ("10", "1e1", "010")])
def test_equal_seeds_are_one_seed(tmp_path: Path, kind: str, seeds: tuple[str, ...]) -> None:
    found = read(kind, tmp_path, *({"seed": seed} for seed in seeds))
    assert (len(found.runs), found.repeated) == (1, len(seeds) - 1)
    with pytest.raises(DataError, match="both have the same setting and seed"):
        read(kind, tmp_path, *({"seed": seed, "loss": f"1.{i}"} for i, seed in enumerate(seeds)))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("x", ("1000", "1e3", "1000.0", "01000", "+1000")),
        ("finetune_examples", ("100", "1E2", "100.")),
        ("task", ("caf\u00e9 au lait", " cafe\u0301  au\nlait ", "\ufeffcafe\u0301 au\u00a0lait\u200b")),
        ("held_out", ("0", "0.0", "False", "FALSE", "00")),
        ("stopped_by", ("patience", "patience ")),
    ],
)
def test_equal_keys_are_one_setting(tmp_path: Path, kind: str, column: str, values: tuple[str, ...]) -> None:
    found = read(kind, tmp_path, *({column: value, "seed": str(i)} for i, value in enumerate(values)))
    assert len(found.settings) == 1
    assert found.settings["seeds"].item() == len(values)


def test_swept_sizes_and_steps_compare_as_numbers(tmp_path: Path) -> None:
    swept = {"factor": "learning_rate", "x": "1e-3"}
    found = read("csv", tmp_path, swept | {"parameters": "5e6"}, swept | {"parameters": "5000000", "seed": "1"})
    assert len(found.settings) == 1
    assert read("csv", tmp_path, {"steps": "100", "best_step": "100.0"}, {"seed": "1"}).ended_at_best == 1
    assert read("csv", tmp_path, {"stopped_by": "Budget"}, {"seed": "1"}).stopped_by_budget == 1


AMBIGUOUS = {
    **dict.fromkeys(("1,000", "1.000,5", "1_000", "1 000", "1'000"), "separators"),
    **dict.fromkeys(("0x10", "0b1", "0o7"), "decimal digits"),
    **dict.fromkeys(("7B", "7 M", "5%", "1.5e3k"), "without a unit"),
    **dict.fromkeys(("\u0661", "\uff11\uff10", "1\u0663"), "digits 0 to 9"),
    **dict.fromkeys(("1e400", "-1e999", "9" * 400), "no float is so large"),
    **dict.fromkeys(("1e-400", "0.0001e-999"), "no float is so close to zero"),
    **dict.fromkeys(("nan", "NaN", "inf", "-Infinity", "TRUE", "--1", "1+1", "(3)", "\u22121"), "finite number"),
}


@pytest.mark.parametrize("column", ["x", "loss", "seed", "bleu", "parameters", "steps", "held_out"])
def test_numbers_that_can_be_read_in_two_ways_are_refused(tmp_path: Path, column: str) -> None:
    for cell, reason in AMBIGUOUS.items():
        if column == "held_out" and cell == "TRUE":
            continue
        with pytest.raises(DataError) as error:
            read("frame", tmp_path, {}, {column: cell, "task": "u"})
        assert f"row 1, column '{column}' is {printable(cell)[:80]}: " in str(error.value)
        assert column == "held_out" or reason in str(error.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": "0.5"}, "column 'seed' is 0.5: give an integer"),
        ({"seed": "a"}, "column 'seed' is a: give a finite number"),
        ({"seed": "9223372036854775808"}, "give an integer of at most 64 bits"),
        ({"seed": "1" + "0" * 40}, "give an integer of at most 64 bits"),
        ({"seed": "1e17"}, "give an integer"),
        ({"x": "9007199254740993"}, "no float holds this integer exactly"),
        ({"held_out": "2"}, "give 0 or 1"),
        ({"task": "a\x00b"}, r"is a\x00b: names have no control characters"),
        ({"task": "a\ud800"}, ": a text has a lone surrogate"),
        ({"bleu": "n/a"}, "give a finite number such as -1.5 or 2e6, or leave it empty"),
        ({"bleu": "\u22121.5"}, "with - (U+002D) as minus sign"),
        ({"seed": "1.000"}, "could separate thousands"),
        ({"finetune_examples": "2.000"}, "could separate thousands"),
        ({"finetune_examples": "4.5"}, "give an integer"),
        ({"x": "125.000"}, "could separate thousands"),
        ({"x": "1.5"}, "give an integer"),
        ({"factor": "pretrain", "x": "12.500"}, "could separate thousands"),
        ({"parameters": "-7"}, "a count is not negative"),
        ({"parameters": "7.000"}, "could separate thousands"),
        ({"dev_in_training": "7"}, "it is a share"),
        ({"dev_in_training": "-3"}, "it is a share"),
        ({"loss": "a\x1b[31m\nb"}, r"is a\x1b[31m b: "),
    ],
)
def test_other_cells_are_refused(tmp_path: Path, change: dict[str, str], message: str) -> None:
    with pytest.raises(DataError) as error:
        read("jsonl", tmp_path, change)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_large_whole_numbers_stay_distinct(tmp_path: Path) -> None:
    found = read("csv", tmp_path, *({"seed": str(2**53 + i)} for i in range(3)))
    assert found.runs["seed"].tolist() == [2**53, 2**53 + 1, 2**53 + 2]
    assert found.settings["seeds"].item() == 3


VALUES = {
    "python": (0, 1000, 1.5, False),
    "numpy": (np.int8(0), np.uint64(1000), np.float32(1.5), np.bool_(False)),
    "decimal": (Decimal("0.0"), Decimal("1E+3"), Decimal("1.50"), Decimal(0)),
    "float": (0.0, 1000.0, 1.5, 0.0),
    "text": ("0", "1000", "1.5", "False"),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("dtype", [object, "category", "string"])
def test_types_of_frames_are_read_alike(name: str, dtype: object) -> None:
    columns = dict(zip(("seed", "x", "loss", "held_out"), VALUES[name], strict=True))
    frame = pd.DataFrame([ROW | columns | {"bleu": pd.NA, " parameters ": np.nan}]).drop(columns="parameters")
    found = read_points(frame.astype(dict.fromkeys(columns, dtype)))
    pd.testing.assert_frame_equal(found.settings, read_points(pd.DataFrame([ROW])).settings)


def test_nullable_columns_and_repeated_labels() -> None:
    frame = pd.DataFrame([ROW, ROW], index=["a", "a"]).assign(held_out=pd.array([False, False], dtype="boolean"))
    frame["seed"] = pd.array([0, 1], dtype="Int64")
    assert len(read_points(frame).runs) == 2
    frame["seed"] = pd.array([0, None], dtype="Int64")
    with pytest.raises(DataError, match=r"'a \(iloc 1\)', column 'seed' is empty"):
        read_points(frame)


NO_NUMBERS = ("10**5000", "-(2**2000)", "[1]", "{'a': 1}", "b't'", "1 + 2j", "pd.Timestamp(0)", "True")


@pytest.mark.parametrize("code", NO_NUMBERS)
def test_values_that_are_no_numbers_or_names_are_refused(code: str) -> None:
    value = eval(code)
    for column in ("x", "seed", "bleu", *(() if value is True else ("task",))):
        frame = pd.DataFrame([ROW]).astype(object)
        frame.at[0, column] = value
        with pytest.raises(DataError, match=f"column '{column}'"):
            read_points(frame)
    frame = pd.DataFrame([ROW]).astype(object).assign(remark=pd.Series([value], dtype=object))
    assert read_points(frame).ignored == ("remark",)


def test_columns_with_blanks_and_concatenated_files(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column 'seed' appears twice"):
        read_points(pd.DataFrame([ROW]).assign(**{" seed": "1"}))
    path = tmp_path / "points.jsonl"
    path.write_text(json.dumps(ROW | {"seed ": "1"}) + "\n")
    with pytest.raises(DataError, match="line 1: column 'seed' appears twice"):
        read_points(path)
    path = tmp_path / "points.csv"
    pd.DataFrame([ROW]).to_csv(path, index=False)
    once = path.read_text()
    path.write_text("\ufeff" + once.replace("\n", "\r\n"))
    assert len(read_points(path).runs) == 1
    path.write_text(once + "\ufeff" + once)
    with pytest.raises(DataError, match="line 3 begins with a byte order mark"):
        read_points(path)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"PK\x03\x04\xff", "spreadsheet"),
        (b"\x1f\x8b\x00", "compressed"),
        (b"PAR1", "Parquet"),
        ("task,method".encode("utf-16"), "UTF-16"),
    ],
)
def test_files_of_other_programs_are_named(tmp_path: Path, data: bytes, kind: str) -> None:
    (tmp_path / "points.csv").write_bytes(data)
    with pytest.raises(DataError, match=f"is .*{kind}.*; save the table as CSV"):
        read_points(tmp_path / "points.csv")


def test_tasks_that_look_alike_are_said() -> None:
    names = ("Mine", "mine", "m\u200dine", "other")
    found = read_points(pd.DataFrame([ROW | {"task": name} for name in names]))
    assert found.tasks == names
    (warning,) = (line for line in found.warnings if line.startswith("tasks "))
    assert r"'Mine', 'mine', 'm\u200dine' differ only" in warning


def test_numbers_that_look_alike_as_tasks_are_said() -> None:
    found = read_points(pd.DataFrame([ROW | {"task": name} for name in ("1", "1.0", "01", "2")]))
    assert any(warning.startswith("tasks '1', '1.0', '01' differ only") for warning in found.warnings)


def test_learning_rates_are_no_counts(tmp_path: Path) -> None:
    found = read("csv", tmp_path, {"factor": "learning_rate", "x": "0.001"}, {"factor": "learning_rate", "x": "1.500"})
    assert found.runs["x"].tolist() == [0.001, 1.5]


@pytest.mark.parametrize(("unit", "loss"), [("nats", "30.5"), ("nats", "0"), ("bits", "40"), ("perplexity", "1e12")])
def test_a_diverged_run_is_left_out_with_a_warning(tmp_path: Path, unit: str, loss: str) -> None:
    rows = [{"loss_unit": unit, "seed": str(seed), "loss": "2"} for seed in range(3)]
    found = read("csv", tmp_path, rows[0], rows[1] | {"loss": loss}, rows[2])
    assert found.runs["seed"].tolist() == [0, 2]
    assert any(f"line 3: the loss is {loss}; no fit" in warning for warning in found.warnings)
    with pytest.raises(DataError, match="correct loss_unit"):
        read("csv", tmp_path, rows[1] | {"loss": loss})
    with pytest.raises(DataError, match="above zero"):
        read("csv", tmp_path, rows[0], rows[1] | {"loss": "-1"})


def test_bases_and_the_fit_of_one_law_use_the_same_reader(tmp_path: Path) -> None:
    header = "family,model,parameters,pretrain_tokens,loss,held_out\n"
    (tmp_path / "bases.csv").write_text(header + "a,s,1e6,1e9,2.5,0\na ,s,1000000,1000000000.0,2.4,0\n")
    with pytest.raises(DataError, match=r"line 3, column 'loss' is 2\.4: this base model"):
        read_bases(tmp_path / "bases.csv")
    (tmp_path / "bases.csv").write_text(header + '"a\n\x00",s,1e6,1e9,2.5,0\n')
    with pytest.raises(DataError, match="column 'family'"):
        read_bases(tmp_path / "bases.csv")
    lines = [
        f"{d},{2 / d**0.3 + 0.5},{group}"
        for d, group in zip((10, 30, 100, 300), ("1", "1.0", "01", "1e0"), strict=True)
    ]
    (tmp_path / "law.csv").write_text("\n".join(["D,loss,rank", *lines]))
    few = Resampling("settings", 40)
    path, out = tmp_path / "law.csv", tmp_path / "out"
    (record,) = fit_csv(SINGLE, path, out, FitSettings(), lambda _: None, by="rank", resampling=few)
    assert (record["rank"], record["points"]) == (1, 4)
    path.write_text("D,loss,rank\n10,1,\n")
    with pytest.raises(DataError, match="line 2, column 'rank' is empty"):
        fit_csv(SINGLE, path, out, FitSettings(), by="rank")


@given(st.one_of(st.floats(allow_nan=False, allow_infinity=False), st.integers(-(2**53), 2**53)))
def test_every_finite_number_is_read_back(number: float) -> None:
    assert read_number(repr(number)) == number
    if isinstance(number, int) or (number.is_integer() and abs(number) <= 2**53):
        assert read_integer(repr(number)) == number


@given(st.text())
def test_printable_text_has_no_control_characters(text: str) -> None:
    shown = printable(text)
    assert shown.isprintable()
    assert not has_control_characters(shown)
    assert shown.encode().decode() == shown
