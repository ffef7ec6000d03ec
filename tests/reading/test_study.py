"""load_study: data equals config and result records, finished, in progress or without runs."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from finetune_scaling.api import fit, read_points
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.laws.uncertainty.bootstrap import Resampling
from finetune_scaling.reading import load_run, load_study
from finetune_scaling.studies.execute import record_config
from finetune_scaling.studies.grid import read_study, runs
from finetune_scaling.studies.tables import write_points

PUBLISHED = Path(__file__).parents[2] / "docs" / "debian_evaluated"
FEW = Resampling(resamples=40)


@pytest.fixture(scope="module")
def directory(tiny_runs, tmp_path_factory) -> Path:
    """A study with one run done, one failed, one started and the rest waiting; tests must not change it."""
    folder = tmp_path_factory.mktemp("study")
    config = tiny_runs.config("study")
    record_config(read_study(config), config, folder)
    done, failed, started, *_ = (folder / run.directory for run in runs(read_study(config)))
    for path in (done, folder / "bases" / "grammar" / "30k"):  # of any run
        shutil.copytree(tiny_runs.base, path)
    for path in (failed, started):
        path.mkdir(parents=True)
        shutil.copy(done / "config.json", path)
    (failed / "failure.json").write_text('{"error": "no such file", "kind": "DataError"}')
    return folder


def test_runs_equal_grid_and_records(directory, tiny_runs):
    study, grid = load_study(directory), runs(read_study(tiny_runs.config("study")))
    frame = study.runs
    assert list(frame.index) == [run.directory.removeprefix("runs/") for run in grid]
    assert list(frame["state"][:4]) == ["done", "failed", "started", "waiting"]
    for run, row in zip(grid, frame.itertuples(), strict=True):
        setting = run.setting
        assert (row.task, row.method, row.family) == (setting.task, setting.method, setting.family)
        assert (row.model, row.pretrain_tokens, row.seed) == (setting.size, setting.tokens, run.seed)
        assert row.finetune_examples == setting.finetune_examples
        assert row.held_out == (setting.finetune_examples == 40)
        assert setting.pet_size is None or row.pet_size == setting.pet_size
    record = json.loads((directory / grid[0].directory / "result.json").read_text())
    assert frame["loss"].dropna().to_dict() == {frame.index[0]: record["loss"]}
    assert frame["error"].iloc[1] == "no such file"
    assert study.name == "tiny"


def test_runs_and_bases_open_by_key(directory, tiny_runs):
    study = load_study(directory)
    run = study.run(study.runs["loss"].idxmin())
    assert run.loss == load_run(study.runs["path"].iloc[0]).loss
    base = study.base("grammar/30k")
    assert base.loss == study.bases.loc["grammar/30k", "dev_loss"] == load_run(tiny_runs.base).loss
    assert study.bases.loc["grammar/100k", "state"] == "waiting"
    assert study.bases.loc["grammar/30k", "tokens_seen"] == load_run(tiny_runs.base).result["tokens_seen"]
    assert study.run(study.runs.index[1]).state == "failed"
    with pytest.raises(WorkdirError, match="has not started"):
        study.run(study.runs.index[-1])
    with pytest.raises(ConfigError, match=r"is not a run of .*; did you mean 'translation/full/"):
        study.run(study.runs.index[0][:-1])
    with pytest.raises(ConfigError, match=r"index of \.bases"):
        study.base("7")


def test_opening_a_run_does_not_read_others(directory, tmp_path):
    copy = Path(shutil.copytree(directory, tmp_path / "study"))
    keys = list(load_study(copy).runs.index)
    done, failed = (copy / "runs" / key for key in keys[:2])
    (failed / "config.json").unlink()  # as if its base model were missing
    with pytest.raises(WorkdirError, match=rf"{keys[1]} failed before it started \(no such file\)"):
        load_study(copy).run(keys[1])
    (done / "result.json").write_text('{"loss"')
    with pytest.raises(WorkdirError, match=r"result\.json: not valid JSON"):
        _ = load_study(copy).runs
    assert load_study(copy).run(keys[2]).state == "started"
    assert load_study(copy).base("grammar/30k").loss > 0


@pytest.mark.parametrize("text", [b"", b"\xff\xfe\x00", b'a,b\n1\n"'], ids=["empty", "no text", "cut short"])
def test_damaged_points_raise(tmp_path, text):
    (tmp_path / "points.csv").write_bytes(text)
    with pytest.raises(DataError, match=r"points\.csv: is not a CSV table"):
        _ = load_study(tmp_path).points


def test_frames_agree_with_inspect(directory):
    inspected, study = inspect(directory), load_study(directory)
    assert study.runs["state"].value_counts().to_dict() == {name: n for name, n in inspected["states"].items() if n}
    assert list(study.bases.index) == [base["base"] for base in inspected["bases"]]


def test_points_and_report_of_a_finished_study(directory, tmp_path):
    study = load_study(directory)
    for read in (lambda: study.points, lambda: study.report, lambda: study.fit()):
        with pytest.raises(WorkdirError, match=r"has no (points\.csv|report/report\.html)\. Fix"):
            read()
    copy = Path(shutil.copytree(directory, tmp_path / "study"))
    write_points(read_study(study.config), copy)
    points = load_study(copy).points
    assert len(points) == len(runs(read_study(study.config))[0].setting.factors)
    assert set(points["loss"]) == {study.runs["loss"].min()}
    (copy / "report").mkdir()
    (copy / "report" / "report.html").write_text('<p title="a">&amp;</p>')
    report = load_study(copy).report
    assert report.html == '<p title="a">&amp;</p>'
    assert 'srcdoc="&lt;p title=&quot;a&quot;&gt;&amp;amp;&lt;/p&gt;"' in report._repr_html_()


def test_a_study_that_has_not_started(tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    record_config(read_study(config), config, tmp_path)
    study = load_study(tmp_path)
    assert set(study.runs["state"]) == set(study.bases["state"]) == {"waiting"}
    assert study.runs["loss"].isna().all()
    assert study.runs["loss"].dtype == study.bases["dev_loss"].dtype == "float64"


def test_tables_without_runs():
    study = load_study(PUBLISHED)
    assert study.name == "debian"
    assert study.facts["metrics"]["summarization"] == "rougeL"
    assert len(study.points) == len((PUBLISHED / "points.csv").read_text().splitlines()) - 1
    for read in (lambda: study.runs, lambda: study.bases, lambda: study.config, lambda: study.run("x")):
        with pytest.raises(WorkdirError, match="the tables of a study without its runs"):
            read()
    with pytest.raises(WorkdirError, match="holds the tables of a study without its runs"):
        load_run(PUBLISHED)
    with pytest.raises(WorkdirError, match="holds the tables of a study without its runs"):
        inspect(PUBLISHED)


@pytest.fixture(scope="module")
def full_tuning() -> pd.DataFrame:
    """Published points of one task and method, for speed."""
    points = load_study(PUBLISHED).points
    return points[(points["task"] == "summarization") & (points["method"] == "full")]


def test_fit_equals_the_fit_of_its_points(full_tuning, tmp_path):
    full_tuning.to_csv(tmp_path / "points.csv", index=False)
    fitted = load_study(tmp_path).fit(resampling=FEW)
    alone = fit(read_points(full_tuning), resampling=FEW)
    assert {key: own.parameters for key, own in fitted.fits.items()} == {
        key: own.parameters for key, own in alone.fits.items()
    }
    frame = fitted.parameters.set_index(["law", "parameter"])["value"]
    for own in fitted.fits.values():
        assert own.fits_well
        assert {name: frame[own.law.name, name] for name in own.parameters} == own.parameters
    figure = fitted.figure()
    sizes = fitted.rows("summarization", factor="model")["x"].nunique()
    assert sum("parameters" in axes.get_title() for axes in figure.axes) == sizes
    assert figure._repr_png_().startswith(b"\x89PNG")
    with pytest.raises(ConfigError, match="translation"):
        fitted.figure("translation")


def test_a_figure_needs_model_sizes(full_tuning):
    other = full_tuning.drop_duplicates("finetune_examples").assign(factor="pretrain", x=1e6)
    fitted = fit(read_points(other), resampling=FEW)
    with pytest.raises(DataError, match="no row of DataFrame has the factor 'model'"):
        fitted.figure()


def test_names_that_spell_missing_values_stay_names(tmp_path):
    (tmp_path / "points.csv").write_text("task,method,loss,bleu\nNA,lora,1.5,\nnull,full,1.25,31.5\n")
    points = load_study(tmp_path).points
    assert points["task"].tolist() == ["NA", "null"]
    assert points["bleu"].isna().tolist() == [True, False]


def test_names_that_are_digits_stay_names(tmp_path):
    (tmp_path / "points.csv").write_text("task,model,loss\n007,001,1.5\n")
    points = load_study(tmp_path).points
    assert points.loc[0, ["task", "model"]].tolist() == ["007", "001"]
