"""Invalid tables of points: an error names row and column, a warning names rows, and nothing is a traceback."""

import contextlib
import csv
import json
import math
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import synthetic_points
from finetune_scaling.errors import DataError, UserError
from finetune_scaling.laws.forms.library import MULTIPLICATIVE
from finetune_scaling.laws.points.table import read_points
from finetune_scaling.laws.points.text import read_text
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.report.study_report import fit_study

COLUMNS = ("task", "method", "factor", "x", "finetune_examples", "loss", "seed", "held_out")


def grid(seeds: int = 1, **extra: object) -> list[dict]:
    """Four sizes and five dataset sizes of LoRA, with losses that follow a law."""
    rows = []
    for x in (1e6, 1e7, 1e8, 1e9):
        for examples in (100, 300, 1000, 3000, 10000):
            loss = 40 / x**0.2 / examples**0.1 + 0.8
            noise = np.random.default_rng(int(x + examples)).normal(0, 0.002, seeds)
            rows += [
                {
                    **dict(zip(COLUMNS, ("t", "lora", "model", int(x), examples, loss + noise[s], s, 0), strict=True)),
                    **extra,
                }
                for s in range(seeds)
            ]
    return rows


def json_lines(path: Path, rows: list[dict]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_csv_json_lines_frame_and_directory_give_the_same_points(tmp_path: Path) -> None:
    rows = grid(seeds=2, bleu=31.5)
    (tmp_path / "study").mkdir()
    synthetic_points.write(tmp_path / "study" / "points.csv", rows)
    expected = read_points(tmp_path / "study" / "points.csv")
    frame = pd.DataFrame(rows).set_index([[f"r{i}" for i in range(len(rows))]])
    for source in (tmp_path / "study", json_lines(tmp_path / "p.jsonl", rows), frame, frame.assign(held_out=False)):
        found = read_points(source)
        pd.testing.assert_frame_equal(found.settings, expected.settings)
        assert found.metrics == ("bleu",)
    assert read_points(frame).path is None


def test_rows_of_a_frame_are_named_by_their_labels() -> None:
    frame = pd.DataFrame(grid()).astype({"loss": object}).set_index([[f"r{i}" for i in range(20)]])
    frame.loc["r7", "loss"] = None
    with pytest.raises(DataError, match=r"DataFrame row 'r7', column 'loss' is empty"):
        read_points(frame)
    with pytest.raises(DataError, match="DataFrame: column 'loss'"):
        read_points(pd.concat([frame, frame[["loss"]]], axis=1))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1, 2]", "line 2: expected a JSON object"),
        ("{'task': 1}", "line 2: invalid JSON"),
        ('{"task": "t", "task": "u"}', "line 2: invalid JSON (column 15: the key 'task' occurs twice"),
        ('{"task": "t", " task": "u"}', "line 2: column 'task' appears twice"),
        ('{"loss": NaN}', "line 2: invalid JSON (column 10: NaN"),
        ('{"x": ' + "9" * 5000 + "}", "line 2: invalid JSON"),
        ("[" * 100_000, "line 2: invalid JSON"),
        ('{"task": "t"}', "line 2, column 'seed' is empty"),
        ('\ufeff{"task": "t"}', "line 2 begins with a byte order mark"),
        ("\u200b\n{}", "line 2 is empty; remove it"),
    ],
)
def test_a_wrong_json_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = json_lines(tmp_path / "p.jsonl", grid()[:1])
    path.write_text(path.read_text() + line + "\n")
    with pytest.raises(DataError) as error:
        read_points(path)
    assert message in str(error.value)


def test_the_error_of_a_directory_without_points_says_what_writes_them(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is a directory without"):
        read_points(tmp_path)
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(DataError, match=r"python -m finetune_scaling.study --config=... --workdir="):
        read_points(tmp_path)


def test_blank_lines_quoted_line_breaks_and_byte_order_marks_do_not_shift_lines(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    rows = ['t,lora,model,1000,100,1.5,0,0,"two\nlines"', "", "t,lora,model,1000,100,oops,1,0,"]
    path.write_text("\ufeff" + ",".join((*COLUMNS, "remark")) + "\n" + "\n".join(rows) + "\n")
    with pytest.raises(DataError, match=r"line 5, column 'loss' is oops"):
        read_points(path)


@pytest.mark.parametrize("mark", [";", "\t", "|"])
def test_other_separators_than_commas_are_rejected(tmp_path: Path, mark: str) -> None:
    (tmp_path / "points.csv").write_text(mark.join(COLUMNS) + "\n")
    with pytest.raises(DataError, match="line 1: columns are separated by"):
        read_points(tmp_path / "points.csv")


def changed(row: int, **values: object) -> list[dict]:
    rows = grid(seeds=2)
    rows[row].update(values)
    return rows


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(3, finetune_examples=0.5), "row 3, column 'finetune_examples' is 0.5: below 1"),
        (changed(3, finetune_examples=1e30), "row 3, column 'finetune_examples' is 1e+30: above 1e+15"),
        (changed(3, x=0.1), "row 3, column 'x' is 0.1: below 1"),
        (changed(3, x=1e40), "row 3, column 'x' is 1e+40: above 1e+18"),
        (changed(3, loss=57.0), "row 3, column 'loss' is 57: above 25 nats"),
        (
            [*grid(), {**grid()[3], "held_out": 1}],
            "row 20, column 'held_out' is 1, but 0 in row 3: both have the same setting and seed",
        ),
        (
            grid(loss_unit="nats")[:-1] + grid(loss_unit="bits")[-1:],
            "row 19, column 'loss_unit' is bits, but nats",
        ),
        (grid(loss_unit="nits"), "row 0, column 'loss_unit' is nits"),
        (
            grid(tokenizer="a")[:9] + grid(tokenizer="b")[9:],
            "row 9, column 'tokenizer' is b, but a in row 0",
        ),
        (grid(tokenizer="a")[:19] + grid()[19:], "row 19, column 'tokenizer' is empty, but a in row 0"),
        (
            grid(size="total")[:9] + grid(size="non_embedding")[9:],
            "row 9, column 'size' is non_embedding, but total",
        ),
        (grid(size="non_embedding"), "row 0, column 'size'"),
        ([{**row, "loss": 0.9} for row in grid(loss_unit="perplexity")], "row 0, column 'loss' is 0.9: a perplexity"),
        (changed(3, bleu=1e300), "row 3, column 'bleu' is 1e+300: above 1e+06"),
        (changed(3, **{"held.ter": -1e9}), "row 3, column 'held.ter' is -1000000000: below -1e+06"),
    ],
)
def test_impossible_numbers_and_mixed_units_are_rejected(rows: list[dict], message: str) -> None:
    with pytest.raises(DataError) as error:
        read_points(pd.DataFrame(rows))
    assert message in str(error.value)


def test_bits_and_perplexities_become_nats() -> None:
    nats = grid()
    bits = [{**row, "loss": row["loss"] / math.log(2), "loss_unit": "bits"} for row in nats]
    perplexities = [{**row, "loss": math.exp(row["loss"]), "loss_unit": "perplexity"} for row in nats]
    expected = read_points(pd.DataFrame(nats)).settings["loss"].to_numpy()
    for rows in (bits, perplexities):
        np.testing.assert_allclose(read_points(pd.DataFrame(rows)).settings["loss"], expected, rtol=1e-12)


def test_sizes_marked_as_non_embedding_are_unchanged() -> None:
    found = read_points(pd.DataFrame(grid(size="non_embedding")), size="non_embedding")
    assert set(found.settings["x"]) == {1e6, 1e7, 1e8, 1e9}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (changed(7, loss=9.0), "t, lora: rows 6, 7: "),
        ([{**r, "loss": r["loss"] * (2 if i in (14, 15) else 1)} for i, r in enumerate(grid(seeds=2))], "rows 14, 15"),
        ([{**r, "x": r["x"] // 10**6} for r in grid()], "x is 1 parameters"),
        ([{**r, "x": r["x"] * 1e9} for r in grid()], "x is 1e+15 parameters"),
        ([{**r, "loss": 1.5} for r in grid()], "the loss is 1.5 in all 20 rows"),
        ([{**r, "loss": 2 + math.log(r["finetune_examples"])} for r in grid()], "in 4 of 4 curves"),
        (changed(39, loss=20.0), "losses range from"),
        ([{**r, "loss": r["loss"] / 1e4} for r in grid()], "rows 0, 1, 2, 3, 4 and 15 more: the loss is 0.00"),
        (grid() + [{**r, "method": "full", "held_out": 1} for r in grid()], "t, full: all 20 rows are held out"),
    ],
)
def test_suspicious_rows_are_kept_with_a_warning(rows: list[dict], message: str) -> None:
    found = read_points(pd.DataFrame(rows))
    assert any(message in warning for warning in found.warnings), found.warnings
    assert len(found.runs) == len(rows)


@pytest.mark.parametrize("rows", [grid(), grid(seeds=3), synthetic_points.rows(noise=0.003, seeds=2)])
def test_good_points_give_no_warnings(rows: list[dict]) -> None:
    assert read_points(pd.DataFrame(rows)).warnings == ()


def test_real_points_give_no_warnings() -> None:
    assert read_points(Path(__file__).parents[2] / "docs" / "debian_points.csv").warnings == ()


JUNK = ["", " ", "nan", "-1", "0", "1e-300", "1e300", "1e999", "0x10", "١", "NULL", "'", '"', "a,b", "\n", "\x00", "😀"]
JUNK += ["full", "lora", "model", "pet", "pretrain", "learning_rate", "9" * 400, "0.5", "1", "24", "true", "-inf"]


def mutated(chance: random.Random) -> bytes:
    """A table with invalid cells, missing or doubled columns, repeated rows and corrupted bytes."""
    rows = grid(seeds=2, bleu=20, loss_unit="nats", tokenizer="a", stopped_by="patience", parameters=5)
    columns = list(rows[0])
    for _ in range(chance.choice((0, 1, 1, 2, 30))):
        chance.choice(rows)[chance.choice(columns)] = chance.choice(JUNK)
    if chance.random() < 0.2:
        columns.remove(chance.choice(columns))
    if chance.random() < 0.2:
        columns.append(chance.choice(columns))
    if chance.random() < 0.3:
        rows += chance.choices(rows, k=5)
    if chance.random() < 0.3:
        rows = chance.sample(rows, chance.randrange(len(rows)))
    lines = [",".join(columns), *(",".join(str(row[c]) for c in columns) for row in rows)]
    data = "\n".join(lines).encode()
    if chance.random() < 0.2:
        position = chance.randrange(len(data))
        data = data[:position] + bytes([chance.randrange(256)]) + data[position + 1 :]
    return data[: chance.randrange(len(data))] if chance.random() < 0.1 else data


@settings(max_examples=80, deadline=None)
@given(st.randoms(use_true_random=False))
def test_no_table_causes_a_traceback(tmp_path_factory: pytest.TempPathFactory, chance: random.Random) -> None:
    path = tmp_path_factory.mktemp("mutated") / "points.csv"
    path.write_bytes(mutated(chance))
    with contextlib.suppress(UserError):
        found = read_points(path)
        assert np.isfinite(found.settings[["x", "finetune_examples", "loss"]].to_numpy(float)).all()
        assert (found.settings["loss"] > 0).all()
        lines = list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))
        assert len(found.runs) <= len(lines)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from([*COLUMNS, "bleu"]),
            st.one_of(
                st.none(),
                st.booleans(),
                st.integers(),
                st.floats(),
                st.text(),
                st.binary(),
                st.lists(st.integers(), max_size=2),
                st.complex_numbers(),
            ),
        ),
        max_size=4,
    )
)
def test_no_frame_causes_a_traceback(rows: list[dict]) -> None:
    with contextlib.suppress(UserError):
        read_points(pd.DataFrame(rows))


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["csv", "jsonl", "txt"]))
def test_no_bytes_cause_a_traceback(tmp_path_factory: pytest.TempPathFactory, data: bytes, kind: str) -> None:
    path = tmp_path_factory.mktemp("bytes") / f"points.{kind}"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        read_text(path, ("a",))


DEGENERATE = (
    ("equal losses of a method", [*grid(), *({**r, "method": "full", "loss": 1.0} for r in grid())], {"lora"}),
    ("random losses", [{**r, "loss": 10 ** random.Random(i).uniform(-300, 1)} for i, r in enumerate(grid())], set()),
)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rows", "determined"), [case[1:] for case in DEGENERATE], ids=[case[0] for case in DEGENERATE]
)
def test_degenerate_points_determine_no_parameter(tmp_path: Path, rows: list[dict], determined: set[str]) -> None:
    how = Resampling(resamples=40)
    fit_study(pd.DataFrame(rows), tmp_path, laws=(MULTIPLICATIVE,), resampling=how, progress=lambda _: None)
    text = (tmp_path / "fit.json").read_text()
    record = json.loads(text)
    assert "NaN" not in text
    assert "Infinity" not in text
    assert (tmp_path / "report.html").exists()
    assert record["reservations"]
    assert {f["method"] for f in record["fits"] for p in f["parameters"].values() if p["identified"]} == determined


def test_the_command_ends_with_one_line_and_code_2(tmp_path: Path) -> None:
    path = json_lines(tmp_path / "p.jsonl", changed(3, loss=57.0))
    command = [sys.executable, "-m", "finetune_scaling.fit", f"--points={path}", f"--out={tmp_path / 'out'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"error: {path} line 4, column 'loss'")
    assert not (tmp_path / "out").exists()
