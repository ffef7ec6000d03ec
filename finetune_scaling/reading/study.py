"""A study, read and never written: its runs, bases and points as frames, each run on demand, its laws, its report."""

import functools
import io
import os
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError, DataError, WorkdirError
from finetune_scaling.files import Location, disk_errors, read_json
from finetune_scaling.laws.points.text import POINTS
from finetune_scaling.reading.paths import resolve_path
from finetune_scaling.reading.report import Report
from finetune_scaling.reading.run import Run
from finetune_scaling.runs.run_directory import CONFIG, FAILURE, RunDirectory, run_state

if TYPE_CHECKING:  # they import SciPy and JAX, which only laws and models take
    from finetune_scaling.api import Fitted
    from finetune_scaling.laws.points.table import PointsTable
    from finetune_scaling.studies.grid import StudyConfig

_RUNS, _BASES = "runs/", "bases/"  # where a study's runs and bases are; keys leave it out


def load_study(path: str | os.PathLike) -> "Study":
    """The study, done or in progress, of a local directory or one in an object store; or one's tables alone.

    Raises WorkdirError where it is something else, saying what.
    """
    where, kind = resolve_path(path, "study", "tables")
    return Study(where, has_runs=kind == "study")


class Study:
    """A study's directory. What was read is kept: load the study again to see how far it has come since.

    has_runs: False for tables that were published without the runs (points.csv, and study.json beside it).
    """

    def __init__(self, path: Location, has_runs: bool = True):
        self.path = path
        self.has_runs = has_runs

    def __repr__(self) -> str:
        return f"Study({str(self.path)!r}): {self.name}" + ("" if self.has_runs else ", tables without runs")

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The config that the study was started with. Raises WorkdirError where there are only tables."""
        self._need_runs("config")
        return RunDirectory(self.path).config

    @functools.cached_property
    def facts(self) -> dict[str, Any]:
        """What study.json says: notes, each task's main metric, and what costs nothing scores; empty before the end."""
        with disk_errors(self.path):
            file = self.path / "study.json"
            return read_json(file) if file.exists() else {}

    @property
    def name(self) -> str:
        """What the study is called."""
        return self.config["name"] if self.has_runs else self.facts.get("name", self.path.name)

    @functools.cached_property
    def runs(self) -> pd.DataFrame:
        """One row a run, by its key: state (done, started, failed, waiting), setting, loss, scores; path.

        Columns: state, task, method, family, model, pretrain_tokens, pet_size, learning_rate (of a sweep),
        finetune_examples, seed, held_out, loss and dev_loss (nats a token), best_step, seconds, the metrics on the test
        sets, error (of a failed run), path.
        """
        from finetune_scaling.inspection.study import inspect_runs

        grid = self._grid
        with disk_errors(self.path):
            rows = inspect_runs(self.path, grid)
        frame = pd.DataFrame(rows).drop(columns=["directory", "metrics", "error"])
        metrics = pd.DataFrame([row["metrics"] for row in rows])
        frame = pd.concat([frame, metrics], axis=1).assign(
            error=[row["error"] for row in rows], path=[str(self.path / row["directory"]) for row in rows]
        )
        frame.index = pd.Index([row["directory"].removeprefix(_RUNS) for row in rows], name="run")
        return frame.astype(_floats("learning_rate", "loss", "dev_loss", "seconds") | _counts("pet_size", "best_step"))

    @functools.cached_property
    def bases(self) -> pd.DataFrame:
        """One row a base, by FAMILY/SIZE: state, dev_loss (nats a token), parameters, tokens_seen, seconds, path."""
        from finetune_scaling.inspection.study import inspect_bases

        grid = self._grid
        with disk_errors(self.path):
            frame = pd.DataFrame(inspect_bases(self.path, grid)).set_index("base")
        frame["path"] = [str(self.path / _BASES / key) for key in frame.index]
        counts = _counts("parameters", "parameters_non_embedding", "tokens_seen")
        return frame.astype(_floats("dev_loss", "seconds") | counts)

    def run(self, key: str) -> Run:
        """A run by its key in `runs`; no other is looked at.

        Raises ConfigError on an unknown one, WorkdirError where it has not begun, or failed before it could.
        """
        from finetune_scaling.studies.grid import runs

        keys = (run.directory.removeprefix(_RUNS) for run in runs(self._grid))
        return self._open(_RUNS, key, keys, "run")

    def base(self, key: str) -> Run:
        """The pretraining run of a base, by its key in `bases`; raises as `run` does."""
        from finetune_scaling.studies.configs import bases

        return self._open(_BASES, key, (base.name for base in bases(self._grid)), "base")

    @functools.cached_property
    def points(self) -> pd.DataFrame:
        """points.csv as it is: a row for every run and every factor that it serves (docs/reference.md has the columns).

        Raises WorkdirError while there is none, DataError where it is damaged.
        """
        file = self._points_file()
        with disk_errors(file):
            data = file.read_bytes()
        try:
            return pd.read_csv(io.BytesIO(data), float_precision="round_trip")
        except ValueError as error:  # pandas' own are of this kind, as is text that is no UTF-8
            raise DataError(f"{file}: is no table ({' '.join(str(error).split())}); run the study again") from error

    @functools.cached_property
    def table(self) -> "PointsTable":
        """The points checked and in nats, as laws are fitted to them. Raises DataError where they are faulty."""
        from finetune_scaling.laws.points.table import read_points

        return read_points(self._points_file())

    def fit(self, tasks: Sequence[str] | None = None, **options: Any) -> "Fitted":
        """The laws of the points, fitted here and now (api.py: fit, whose further options these are).

        The report, where there is one, has those of the study's own fit. Raises ConfigError on an unknown task,
        DataError where the points are faulty.
        """
        from finetune_scaling.api import fit

        return fit(self.table, tasks, **options)

    @property
    def report(self) -> Report:
        """The report, which a notebook shows in place. Raises WorkdirError while there is none."""
        file = self.path / "report" / "report.html"
        with disk_errors(file):
            if not file.exists():
                raise WorkdirError(
                    f"{self.path}: has no report yet; the study command writes it with the last run, or "
                    f"python -m finetune_scaling.fit --points={self.path} --out={self.path / 'report'}"
                )
        return Report(file)

    def _points_file(self) -> Location:
        file = self.path / POINTS
        with disk_errors(file):
            if not file.exists():
                raise WorkdirError(
                    f"{self.path}: has no {POINTS} yet; the study command writes it when it ends: run it to its end"
                )
        return file

    @functools.cached_property
    def _grid(self) -> "StudyConfig":
        from finetune_scaling.studies.grid import read_study

        self._need_runs("runs")
        return read_study(self.config)

    def _open(self, below: str, key: str, keys: Iterable[str], what: str) -> Run:
        known = list(keys)
        if key not in known:
            near = suggestion(str(key), known)
            mend = near if "did you mean" in near else f"; the index of .{what}s has the keys"
            raise ConfigError(f"{key!r} is no {what} of {self.path}{mend}")
        where = self.path / below / key
        with disk_errors(where):
            how = run_state(where)
            if how == "waiting":
                raise WorkdirError(f"{self.path}: the {what} {key} has not begun; run the study")
            if how == "failed" and not (where / CONFIG).exists():  # its base could not be had, or its config not read
                failure = read_json(where / FAILURE)["error"]
                raise WorkdirError(
                    f"{self.path}: the {what} {key} failed before it began ({failure}); mend that, and run the study"
                )
        return Run(where)

    def _need_runs(self, what: str) -> None:
        if not self.has_runs:
            raise WorkdirError(f"{self.path}: has no {what}: it holds the tables of a study without its runs")


def _floats(*columns: str) -> dict[str, str]:
    """Dtypes of numbers that may be missing, also where all of them are."""
    return dict.fromkeys(columns, "float64")


def _counts(*columns: str) -> dict[str, str]:
    return dict.fromkeys(columns, "Int64")
