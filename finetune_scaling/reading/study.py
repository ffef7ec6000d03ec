"""Read a study: its runs, base models and points as frames, single runs, fitted laws, and its report."""

import dataclasses
import functools
import html
import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune_scaling.configuration import closest
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.files import Location, absolute, disk_errors, read_json, read_json_object
from finetune_scaling.inspection.directory_kind import find_directory
from finetune_scaling.laws.points.columns import TEXTS
from finetune_scaling.laws.points.text import POINTS
from finetune_scaling.messages import one_line
from finetune_scaling.reading.run import Run
from finetune_scaling.runs.run_directory import CONFIG, FAILURE, RunDirectory, run_state

if TYPE_CHECKING:  # these modules import SciPy and JAX, which only laws and models need
    from finetune_scaling.api import Fitted
    from finetune_scaling.laws.points.table import PointsTable
    from finetune_scaling.studies.grid import StudyConfig

_RUNS, _BASES = "runs/", "bases/"  # folders of a study; keys do not include them


def load_study(path: str | os.PathLike) -> "Study":
    """Return the study in a local or remote directory, finished or in progress, or only its published tables.

    Raises WorkdirError if the directory is something else.
    """
    where, kind = find_directory(path, "study", "tables")
    return Study(absolute(where), has_runs=kind == "study")


@dataclasses.dataclass(frozen=True)
class Report:
    """The report.html of a study, which a notebook displays inline; it needs no network."""

    path: Location

    @property
    def html(self) -> str:
        """The page."""
        return self.path.read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        """Return the page in a frame, which isolates its styles and scripts."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="report" loading="lazy" '
            'style="width: 100%; height: 640px; border: 1px solid #ccc"></iframe>'
        )


class Study:
    """A study's directory. Data that was read is cached: load the study again to see its further progress.

    has_runs: False for tables published without runs (points.csv and study.json).
    """

    def __init__(self, path: Location, has_runs: bool = True):
        self.path = path
        self.has_runs = has_runs

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}): {self.name}" + ("" if self.has_runs else ", tables without runs")

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The config that the study was started with. Raises WorkdirError if there are only tables."""
        if not self.has_runs:
            raise WorkdirError(
                f"{self.path}: has no config, only the tables of a study without its runs. Fix: load the study itself"
            )
        return RunDirectory(self.path).config

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """The content of study.json: notes, main metrics, scores of trivial baselines; empty until the study ends."""
        with disk_errors(self.path, reading=True):
            file = self.path / "study.json"
            return read_json_object(file, fix="correct or delete it") if file.exists() else {}

    @property
    def name(self) -> str:
        """The name of the study."""
        return self.config["name"] if self.has_runs else self.facts.get("name", self.path.name)

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run, indexed by its key: state (done, started, failed, waiting), setting, loss, scores, path.

        Columns: state, task, method, family, model, pretrain_tokens, pet_size, learning_rate (of a sweep),
        finetune_examples, seed, held_out, loss and dev_loss (nats per token), best_step, seconds, metrics on the test
        sets, error (of a failed run), path.
        """
        from finetune_scaling.inspection.study import inspect_runs

        grid = self._grid
        with disk_errors(self.path, reading=True):
            rows = inspect_runs(self.path, grid)
            return _run_frame(self.path, rows)

    @functools.cached_property
    def bases(self) -> pd.DataFrame:
        """One row per FAMILY/SIZE: state, dev_loss (nats per token), parameters, tokens_seen, seconds, path."""
        from finetune_scaling.inspection.study import inspect_bases

        grid = self._grid
        with disk_errors(self.path, reading=True):
            frame = pd.DataFrame(inspect_bases(self.path, grid)).set_index("base")
            frame["path"] = [str(self.path / _BASES / key) for key in frame.index]
            counts = dict.fromkeys(("parameters", "parameters_non_embedding", "tokens_seen"), "Int64")
            return frame.astype(dict.fromkeys(("dev_loss", "seconds"), "float64") | counts)

    def run(self, key: str) -> Run:
        """Return a run by its key in `runs`; no other run is read.

        Raises ConfigError for an unknown key, WorkdirError if the run has not started.
        """
        from finetune_scaling.studies.grid import runs

        keys = (run.directory.removeprefix(_RUNS) for run in runs(self._grid))
        return self._open(_RUNS, key, keys, "run")

    def base(self, key: str) -> Run:
        """Return the run of a base model by its key in `bases`; raises as `run` does."""
        from finetune_scaling.studies.configs import bases

        return self._open(_BASES, key, (base.name for base in bases(self._grid)), "base")

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """The unchanged points.csv: one row per run and factor (docs/reference.md lists the columns).

        Raises WorkdirError if it is missing, DataError if it is damaged.
        """
        file = self._file(POINTS, "copy the file here")
        with disk_errors(file, reading=True):
            data = file.read_bytes()
        try:
            return pd.read_csv(
                io.BytesIO(data),
                dtype=dict.fromkeys(TEXTS, str),
                float_precision="round_trip",
                keep_default_na=False,
                na_values=[""],
                low_memory=False,
            )
        except ValueError as error:  # the base class of pandas' parser errors and of UnicodeDecodeError
            raise DataError(f"{file}: is not a CSV table ({one_line(str(error))}). Fix: run the study again") from error

    @functools.cached_property
    def table(self) -> "PointsTable":
        """The validated points in nats, to which laws are fitted. Raises DataError if a row is invalid."""
        from finetune_scaling.laws.points.table import read_points

        return read_points(self._file(POINTS, "copy the file here"))

    def fit(self, tasks: Sequence[str] | None = None, **options: Any) -> "Fitted":
        """Fit the laws to the points; options as in api.fit.

        Raises ConfigError for an unknown task, DataError if a row is invalid.
        """
        from finetune_scaling.api import fit

        return fit(self.table, tasks, **options)

    @property
    def report(self) -> Report:
        """The report, which a notebook displays inline. Raises WorkdirError if it is missing."""
        fix = f"run python -m finetune_scaling.fit --points={self.path} --out={self.path / 'report'}"
        return Report(self._file("report/report.html", fix))

    def _file(self, name: str, fix: str) -> Location:
        file = self.path / name
        with disk_errors(file, reading=True):
            if not file.exists():
                raise WorkdirError(f"{self.path}: has no {name}. Fix: run the study to its end, or {fix}")
        return file

    @functools.cached_property
    def _grid(self) -> "StudyConfig":
        from finetune_scaling.studies.grid import read_study

        return read_study(self.config)

    def _open(self, folder: str, key: str, keys: Iterable[str], what: str) -> Run:
        known = list(keys)
        if key not in known:
            near = closest(key, known)
            fix = f"; did you mean {near!r}?" if near else f". Fix: give a key of the index of .{what}s"
            raise ConfigError(f"{key!r} is not a {what} of {self.path}{fix}")
        where = self.path / folder / key
        with disk_errors(where, reading=True):
            status = run_state(where)
            if status == "waiting":
                raise WorkdirError(f"{self.path}: the {what} {key} has not started. Fix: run the study")
            if status == "failed" and not (where / CONFIG).exists():  # without its base
                failure = read_json(where / FAILURE)["error"]
                raise WorkdirError(
                    f"{self.path}: the {what} {key} failed before it started ({failure}). Fix that and run the study"
                )
        return Run(where)


def _run_frame(study: Location, rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Return the frame of all runs from their contents; see Study.runs."""
    frame = pd.DataFrame(rows).drop(columns=["directory", "metrics", "error"])
    metrics = pd.DataFrame([row["metrics"] for row in rows])
    frame = pd.concat([frame, metrics], axis=1).assign(
        error=[row["error"] for row in rows], path=[str(study / row["directory"]) for row in rows]
    )
    frame.index = pd.Index([row["directory"].removeprefix(_RUNS) for row in rows], name="run")
    floats = dict.fromkeys(("learning_rate", "loss", "dev_loss", "seconds"), "float64")
    return frame.astype(floats | dict.fromkeys(("pet_size", "best_step", "pretrain_tokens"), "Int64"))
