"""One run, read and never written: its config, curves, scores and samples as they lie there, its model on demand."""

import functools
import os
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune_scaling.evaluation.example_rows import EVALUATION, read_rows
from finetune_scaling.files import Location, disk_errors
from finetune_scaling.reading.paths import resolve_path
from finetune_scaling.runs.run_directory import RunDirectory, run_state

# What imports JAX is imported where it is asked for: looking at numbers takes none of it.
if TYPE_CHECKING:
    from finetune_scaling.evaluation.evaluated_model import EvaluatedModel
    from finetune_scaling.runs.model_loading import TunedModel

SCORE_COLUMNS = ("evaluation", "split", "of", "metric", "score", "signature")
ROW_COLUMNS = ("source", "reference", "hypothesis", "loss", "tokens", "target_language")
_TEXTS = ["source", "reference", "hypothesis", "target_language"]
OWN_SPLIT = "test"
_CURVES = ("loss", "dev_loss", "learning_rate", "gradient_norm")  # in this order, before what evaluators add


def load_run(path: str | os.PathLike) -> "Run":
    """The run, finetuned or pretrained, done or in progress, of a local directory or one in an object store.

    Raises WorkdirError where it is something else, saying what.
    """
    where, _ = resolve_path(path, "run")
    return Run(where)


class Run:
    """A run's directory. What was read is kept: load the run again to see how far it has come since.

    step: the checkpoint that is read where none is named; None: the best one, of a base the newest.
    """

    def __init__(self, path: Location, step: int | None = None):
        self.path = path
        self.step = step
        # Here and not in a cache of the class, which would keep every run's model for as long as the program runs.
        self._subjects: dict[int | None, EvaluatedModel] = {}
        self._loaded: tuple[Mapping[str, Any], TunedModel] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}): {self.state}" + ("" if self.loss is None else f", loss {self.loss:.4f}")

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The config that the run was started with. Raises WorkdirError where it is damaged."""
        return RunDirectory(self.path).config

    @functools.cached_property
    def result(self) -> dict[str, Any] | None:
        """The record that a finished run leaves; None before."""
        with disk_errors(self.path):
            return RunDirectory(self.path).result if self.state == "done" else None

    @property
    def name(self) -> str:
        """What the config calls it, or its directory's name."""
        return self.config.get("name") or self.path.name

    @functools.cached_property
    def state(self) -> str:
        """done, failed (in a study), or started."""
        with disk_errors(self.path):
            return run_state(self.path)

    @property
    def method(self) -> dict[str, Any]:
        """The tuning method: its name, and the options that the config gives."""
        return {name: value for name, value in self.config.get("method", {"name": "full"}).items() if value is not None}

    @property
    def loss(self) -> float | None:
        """Test loss in nats a token (of a base: on its held-out text); None before the run is done."""
        return None if self.result is None else self.result["loss"]

    @functools.cached_property
    def base(self) -> "Run | None":
        """The pretrained run that this one was tuned from, where it is now, at the step from which; None for a base.

        Raises WorkdirError where it is not there any more.
        """
        from finetune_scaling.runs.model_loading import resolve_paths
        from finetune_scaling.runs.run_config import read_run_config

        base = resolve_paths(read_run_config(self.config), self.path).base
        return None if base is None else Run(load_run(base.run).path, base.step)

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """What was measured while it trained, by step: loss and dev_loss (nats a token), learning_rate, ...

        A row for every step at which something was; NaN where that was not, or not yet. time: when, in UTC.
        """
        with disk_errors(self.path):
            lines = pd.DataFrame(RunDirectory(self.path).metrics())
        if lines.empty:
            return pd.DataFrame(columns=list(_CURVES), index=pd.Index([], name="step", dtype="int64"))
        frame = lines.groupby("step").last()
        if "time" in frame:
            frame["time"] = pd.to_datetime(frame["time"], unit="s", utc=True)
        return frame.reindex(columns=[*_CURVES, *(c for c in frame if c not in _CURVES)])

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """Every score that the run's directory holds, one a row.

        evaluation: "result" for those of its own config, or an evaluator's name; split: a set, or "all" for all of
        them together; of: "model", "untuned" (the base as it is) or a baseline; metric: "loss" and its like, or a
        metric, which has a signature.
        """
        from finetune_scaling.evaluation.records import best_checkpoint_records, evaluation_records

        with disk_errors(self.path):
            result = self.result or {}
            records = best_checkpoint_records(self.path, result) if result else dict(evaluation_records(self.path))
        rows = [row for split, scores in result.get("tests", {}).items() for row in _scores("result", split, scores)]
        for name, record in records.items():
            rows += [row for split, scores in _sets(record) for row in _scores(name, split, scores)]
            for other, scores in {"untuned": record.get("untuned"), **record.get("baselines", {})}.items():
                rows += _scores(name, "all", scores or {}, other)
        return pd.DataFrame(rows, columns=list(SCORE_COLUMNS))

    @functools.cached_property
    def splits(self) -> list[str]:
        """The sets of which there are samples: test sets of the task, and EVALUATOR.SET of other evaluators."""
        folder = self.path / EVALUATION
        with disk_errors(folder):
            names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))

    def samples(self, split: str | None = None) -> pd.DataFrame:
        """What the run read, should have written, and wrote, one example a row, by the example's index.

        split: one of `splits`; by default the task's first test set. hypothesis: None where it was scored but not
        decoded, as are all texts of rows of running text; loss: nats a token. Raises DataError where there are no such
        rows, or a line is damaged.
        """
        split = split or next(iter((self.result or {}).get("tests", self.splits)), OWN_SPLIT)
        file = self.path / EVALUATION / f"{split}.jsonl"
        rows = pd.DataFrame(read_rows(file, ("index", "loss_sum", "tokens"))).set_index("index")
        rows["loss"] = rows["loss_sum"] / rows["tokens"]
        frame = rows.reindex(columns=list(ROW_COLUMNS))
        frame[_TEXTS] = frame[_TEXTS].astype(object).where(frame[_TEXTS].notna(), None)
        return frame

    @functools.cached_property
    def steps(self) -> list[int]:
        """The steps of which there are whole checkpoints."""
        from finetune_scaling.runs.checkpoints import checkpoint_steps

        with disk_errors(self.path):
            return sorted(checkpoint_steps(self.path))

    def params(self, step: int | None = None) -> dict[str, Any]:
        """What trained, as a nested dict of NumPy arrays: all of a base, an adapter or a soft prompt alone.

        step: which checkpoint; by default the run's `step`. Raises CheckpointError where it is missing or damaged.
        """
        from finetune_scaling.runs.checkpoints import read_trainable
        from finetune_scaling.runs.model_loading import find_run

        return read_trainable(find_run(self.path, self.step if step is None else step).path)[0]

    def model(self, step: int | None = None) -> "TunedModel":
        """The whole model of a checkpoint, chosen as in `params`, on the devices at hand; the last one asked for stays.

        Raises CheckpointError where it is missing or damaged, or belongs to another base or tokenizer than are there.
        """
        subject = self._subject(step)
        if self._loaded is None or self._loaded[0] != subject.checkpoint:
            self._loaded = None  # two at once may be more than the memory holds
            self._loaded = subject.checkpoint, subject.load()
        return self._loaded[1]

    def generate(
        self,
        texts: Iterable[str],
        step: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **decoding: Any,
    ) -> list[str]:
        """What the model writes for every text, in a list or a column, as the evaluate command has it written.

        A finetuned run reads each text as a source of its task, cut as in training; a base goes on with it. step: as
        in `params`. source_language, target_language: which of the task's directions, where it has several. decoding:
        fields of DecodingConfig (decoding/settings.py) to change in the run's own, such as method="beam", beams=4.
        Raises ConfigError on a wrong option, DataError on a text that does not fit, and as `model` does.
        """
        from finetune_scaling.reading.generation import write

        languages = (source_language, target_language)
        return write(self._subject(step).run_config, lambda: self.model(step), texts, languages, decoding)

    def _subject(self, step: int | None) -> "EvaluatedModel":
        from finetune_scaling.reading.generation import open_model

        if step not in self._subjects:
            self._subjects[step] = open_model(self.path, self.step if step is None else step)
        return self._subjects[step]


def _sets(record: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Scores of all sets of an evaluation together, and of each where there are several."""
    yield "all", record
    if len(record.get("splits", {})) > 1:
        yield from record["splits"].items()


def _scores(evaluation: str, split: str, scores: Mapping[str, Any], of: str = "model") -> list[tuple[Any, ...]]:
    """Rows of SCORE_COLUMNS."""
    from finetune_scaling.evaluation.records import score_values

    signatures = {name: entry.get("signature") for name, entry in scores.get("metrics", {}).items()}
    return [(evaluation, split, of, name, score, signatures.get(name)) for name, score in score_values(scores).items()]
