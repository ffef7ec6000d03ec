"""A report replaces an earlier one as a whole and nothing else: after errors and kills, and next to users' files."""

import json
import os
from pathlib import Path

import pytest

from finetune_scaling.errors import WorkdirError
from finetune_scaling.report import report_directory
from finetune_scaling.report.report_directory import check_report_directory, new_report


def write(out: Path, *plots: str, text: str = "") -> None:
    """Write a report with these plots."""
    with new_report(out) as folder:
        (folder / "plots").mkdir()
        for plot in plots:
            (folder / "plots" / plot).write_text(plot + text)
        (folder / "report.html").write_text("page" + text)
        (folder / "fit.json").write_text(json.dumps({"fits": [], "text": text}))


def content(out: Path) -> dict[str, str]:
    """Return the text of every file but fit.json, which must list those of the report."""
    files = {path.relative_to(out).as_posix(): path for path in out.rglob("*") if path.is_file()}
    return {name: path.read_text() for name, path in files.items() if name != "fit.json"}


def listed(out: Path) -> set[str]:
    return set(json.loads((out / "fit.json").read_text())["files"])


def test_vanished_plots_go_and_files_of_users_stay(tmp_path: Path) -> None:
    out = tmp_path / "new" / "report"
    out.mkdir(parents=True)
    (out / "notes.txt").write_text("mine")
    write(out, "a.svg", "b.svg")
    (out / "plots" / "own.svg").write_text("mine")
    write(out, "b.svg", "c.svg", text=" 2")
    assert content(out) == {
        "notes.txt": "mine",
        "plots/own.svg": "mine",
        "plots/b.svg": "b.svg 2",
        "plots/c.svg": "c.svg 2",
        "report.html": "page 2",
    }
    assert listed(out) == {"fit.json", "report.html", "plots/b.svg", "plots/c.svg"}


def test_an_error_leaves_all_as_it_was(tmp_path: Path) -> None:
    write(tmp_path / "old", "a.svg")
    before = content(tmp_path / "old")
    for name in ("old", "new"):
        with pytest.raises(ZeroDivisionError), new_report(tmp_path / name) as folder:
            (folder / "report.html").write_text(str(1 / 0))
    assert content(tmp_path / "old") == before
    assert [path.name for path in tmp_path.iterdir()] == ["old"]


@pytest.mark.parametrize("step", range(6))
def test_the_next_report_completes_what_a_killed_one_began(
    tmp_path: Path, step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, "a.svg", "b.svg")
    left, replace, unlink = [step], os.replace, Path.unlink

    def killed(*arguments: object) -> None:
        left[0] -= 1
        if left[0] < 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(report_directory.os, "replace", lambda *a: (killed(), replace(*a)))
    monkeypatch.setattr(Path, "unlink", lambda path, **options: (killed(), unlink(path, **options)))
    try:
        write(tmp_path, "b.svg", "c.svg", text=" 2")
    except KeyboardInterrupt:
        assert listed(tmp_path) >= set(content(tmp_path))
        assert content(tmp_path)["report.html"] in ("page", "page 2")
    monkeypatch.undo()
    write(tmp_path, "d.svg", text=" 3")
    assert content(tmp_path) == {"plots/d.svg": "d.svg 3", "report.html": "page 3"}


def test_directories_that_killed_reports_left_are_removed(tmp_path: Path) -> None:
    (tmp_path / ".report.x.unfinished" / "plots").mkdir(parents=True)
    write(tmp_path, "a.svg")
    assert set(content(tmp_path)) == {"plots/a.svg", "report.html"}
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("taken", ["tables/mine.csv", "plots/x.png", "report.html", "fit.json"])
def test_what_no_report_wrote_is_never_replaced(tmp_path: Path, taken: str) -> None:
    file = tmp_path / taken
    file.parent.mkdir(exist_ok=True)
    file.write_text("[1]")
    with pytest.raises(WorkdirError, match="no report wrote it; move it away"):
        check_report_directory(tmp_path)
    with pytest.raises(WorkdirError, match="no report wrote it; move or rename it"):
        check_report_directory(tmp_path, fix="move or rename it")
    with pytest.raises(WorkdirError, match="no report wrote it"):
        write(tmp_path, "x.png")
    assert file.read_text() == "[1]"
    with pytest.raises(WorkdirError, match="is a file"):
        check_report_directory(file)


def test_a_directory_that_cannot_be_written_is_said_before_the_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_report_directory(tmp_path / "a" / "b")
    monkeypatch.setattr(report_directory.os, "access", lambda path, mode: Path(path) != tmp_path)
    with pytest.raises(WorkdirError, match="cannot be written; give"):
        check_report_directory(tmp_path / "a" / "b")
    assert not list(tmp_path.iterdir())


def test_a_manipulated_list_removes_nothing_outside(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    out = tmp_path / "out"
    write(out, "a.svg")
    record = json.loads((out / "fit.json").read_text())
    files = ["../mine.txt", str(tmp_path / "mine.txt"), "plots/a.svg", "plots/gone.svg"]
    (out / "fit.json").write_text(json.dumps(record | {"files": files}))
    write(out, "b.svg")
    assert (tmp_path / "mine.txt").exists()
    assert not (out / "plots" / "a.svg").exists()
