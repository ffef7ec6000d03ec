"""Tables of points: an error names file, line and column; settings are means over seeds."""

from pathlib import Path

import pytest

from finetune_scaling.errors import DataError
from finetune_scaling.laws.points.table import read_points

HEADER = "task,method,factor,x,finetune_examples,loss,seed,held_out"
GOOD = "t,lora,model,1000,100,1.5,0,0"


def table(tmp_path: Path, *lines: str, header: str = HEADER) -> Path:
    path = tmp_path / "points.csv"
    path.write_text("\n".join([header, *lines]) + "\n")
    return path


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("t,lorra,model,1000,100,1.5,0,0", "line 3, column 'method' is lorra"),
        ("t,lora,modell,1000,100,1.5,0,0", "line 3, column 'factor' is modell"),
        ("t,lora,model,big,100,1.5,0,0", "line 3, column 'x' is big: give a finite number"),
        ("t,lora,model,1000,100,nan,0,0", "line 3, column 'loss' is nan: give a finite number"),
        ("t,lora,model,1000,100,inf,0,0", "line 3, column 'loss' is inf: give a finite number"),
        ("t,lora,model,1000,100,,0,0", "line 3, column 'loss' is empty"),
        ("t,lora,model,1000,100,-1.5,0,0", "line 3, column 'loss' is -1.5"),
        ("t,lora,model,0,100,1.5,0,0", "line 3, column 'x' is 0"),
        ("t,lora,model,1000,-5,1.5,0,0", "line 3, column 'finetune_examples' is -5"),
        ("t,lora,model,1000,100,1.5,1,yes", "line 3, column 'held_out' is yes"),
        ("t,full,pet,8,100,1.5,0,0", "line 3, column 'factor' is pet: the row's method has no PET size"),
        ("t,ia3,pet,8,100,1.5,0,0", "line 3, column 'factor' is pet: the row's method has no PET size"),
        ("t,bitfit,pet,8,100,1.5,0,0", "line 3, column 'factor' is pet: the row's method has no PET size"),
        ("t,lora,model,1000,100,1.6,0,0", "line 3, column 'loss' is 1.6, but 1.5 in line 2"),
        ("t,lora,model,1000,100,1.6,1,1", "line 3, column 'held_out'"),
        ("t,lora,model,1000", "line 3, column 'seed' is empty"),
        ("t,lora,model,1000,100,1.5,0,0,9", "line 3"),
    ],
)
def test_an_invalid_row_is_named(tmp_path: Path, line: str, message: str) -> None:
    with pytest.raises(DataError, match=r"points\.csv") as error:
        read_points(table(tmp_path, GOOD, line))
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (HEADER.replace("loss", "los"), "line 1: column 'loss' is missing"),
        (HEADER.replace("seed", "loss"), "line 1: column 'loss'"),
    ],
)
def test_an_invalid_header_is_named(tmp_path: Path, header: str, message: str) -> None:
    with pytest.raises(DataError) as error:
        read_points(table(tmp_path, GOOD, header=header))
    assert message in str(error.value)


def test_files_that_are_not_tables_are_rejected(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").write_text("")
    (tmp_path / "latin.csv").write_bytes(HEADER.encode() + b"\n\xe9\xff,lora")
    for name, message in (("empty.csv", "is empty"), ("latin.csv", "UTF-8"), ("none.csv", "no such file")):
        with pytest.raises(DataError, match=message):
            read_points(tmp_path / name)
    with pytest.raises(DataError, match="no rows"):
        read_points(table(tmp_path))


def test_rows_that_no_law_is_fitted_to_are_kept_as_held_out(tmp_path: Path) -> None:
    assert read_points(table(tmp_path, GOOD[:-1] + "1")).settings["held_out"].all()
    found = read_points(table(tmp_path, GOOD + ",budget", header=HEADER + ",stopped_by"))
    assert (found.stopped_by_budget, found.settings["held_out"].tolist(), found.warnings) == (1, [True], ())


def test_seeds_are_averaged_and_runs_stopped_by_budget_are_dropped(tmp_path: Path) -> None:
    lines = [GOOD + ",patience", "t,lora,model,1000,100,1.7,1,0,max_steps", "t,lora,model,1000,100,9.0,2,0,budget"]
    found = read_points(table(tmp_path, *lines, lines[0], header=HEADER + ",stopped_by"))
    assert (found.stopped_by_budget, found.repeated, len(found.runs), len(found.settings)) == (1, 1, 2, 1)
    setting = found.settings.iloc[0]
    assert setting["loss"] == pytest.approx(1.6)
    assert setting["seeds"] == 2


def test_rows_evaluated_once_or_best_at_the_last_step_are_counted(tmp_path: Path) -> None:
    ends = {"8,8,1": 2, "8,8,3": 1, "8,4,3": 1, "8,8,": 1, ",,": 1}  # steps, best_step, dev_evaluations: rows
    rows = [end for end, count in ends.items() for _ in range(count)]
    lines = [f"t,lora,model,1000,100,1.5,{seed},0,{end}" for seed, end in enumerate(rows)]
    found = read_points(table(tmp_path, *lines, header=HEADER + ",steps,best_step,dev_evaluations"))
    assert (found.evaluated_once, found.ended_at_best) == (2, 2)
    without = read_points(table(tmp_path, "t,lora,model,1000,100,1.5,0,0,8,8", header=HEADER + ",steps,best_step"))
    assert (without.evaluated_once, without.ended_at_best) == (0, 1)
    assert read_points(table(tmp_path, GOOD)).ended_at_best == 0


def test_metrics_and_unused_columns_are_distinguished(tmp_path: Path) -> None:
    header = HEADER + ",bleu,rougeL,chrf++,comment"
    found = read_points(table(tmp_path, GOOD + ",20.5,.4,,fine", header=header))
    assert found.metrics == ("bleu", "rougeL", "chrf++")
    assert found.ignored == ("comment",)


def test_non_embedding_size_replaces_x(tmp_path: Path) -> None:
    path = table(tmp_path, GOOD + ",800", header=HEADER + ",parameters_non_embedding")
    assert read_points(path, size="non_embedding").settings["x"].tolist() == [800]
    assert read_points(path).settings["x"].tolist() == [1000]
    with pytest.raises(DataError, match="parameters_non_embedding"):
        read_points(table(tmp_path, GOOD), size="non_embedding")
