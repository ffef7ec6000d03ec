"""Read a run: its config, curves, scores and samples as frames, and its model on demand."""

import functools
import os
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from finetune_scaling.errors import WorkdirError
from finetune_scaling.evaluation.example_rows import EVALUATION, read_rows
from finetune_scaling.files import Location, absolute, check_record, disk_errors
from finetune_scaling.inspection.directory_kind import find_directory
from finetune_scaling.runs.run_directory import CONFIG, METRICS, NUMBER, RESULT, RunDirectory, run_state

# Modules that import JAX are imported on demand, as config, curves and scores do not need it.
if TYPE_CHECKING:
    from finetune_scaling.evaluation.evaluated_model import EvaluatedModel
    from finetune_scaling.reading.predictions import Logits
    from finetune_scaling.runs.model_loading import TunedModel

_SCORES = ["evaluation", "split", "of", "metric", "score", "signature"]
_TEXTS = ["source", "reference", "hypothesis", "target_language"]
_CURVES = ["loss", "dev_loss", "learning_rate", "gradient_norm"]  # in this order, before what evaluators add


def load_run(path: str | os.PathLike) -> "Run":
    """Return the run in a local or remote directory, finished or in progress.

    Raises WorkdirError if the directory is something else.
    """
    where, _ = find_directory(path, "run")
    return Run(absolute(where))


class Run:
    """A run's directory. Data that was read is cached: load the run again to see its further progress.

    step: the default checkpoint; None: the best one, of a base model the newest.
    """

    def __init__(self, path: Location, step: int | None = None):
        self.path = path
        self.step = step
        # Per instance: a cache of the class would keep the models of all runs in memory.
        self._models: dict[int | None, EvaluatedModel] = {}
        self._loaded: tuple[Mapping[str, Any], TunedModel] | None = None

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r}): {self.state}" + ("" if self.loss is None else f", loss {self.loss:.4f}")

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The config that the run was started with. Raises WorkdirError if it is damaged."""
        return RunDirectory(self.path).config

    @functools.cached_property
    def result(self) -> dict[str, Any] | None:
        """The result record; None until the run is finished."""
        with disk_errors(self.path, reading=True):
            return RunDirectory(self.path).result if self.state == "done" else None

    @property
    def name(self) -> str:
        """The name in the config, or the directory's name."""
        return self.config.get("name") or self.path.name

    @functools.cached_property
    def state(self) -> str:
        """done, failed (in a study), or started."""
        with disk_errors(self.path, reading=True):
            return run_state(self.path)

    @property
    def method(self) -> dict[str, Any]:
        """The tuning method: its name and the options set in the config."""
        check_record(self.path / CONFIG, self.config, {"method": {}})
        options = self.config.get("method", {"name": "full"})
        return {name: value for name, value in options.items() if value is not None}

    @property
    def loss(self) -> float | None:
        """Test loss in nats per token (base model: on its held-out text); None until the run is finished."""
        if self.result is None:
            return None
        check_record(self.path / RESULT, self.result, {"loss!": NUMBER})
        return self.result["loss"]

    @functools.cached_property
    def base(self) -> "Run | None":
        """The run of the base model, with the step that this run started from as default; None for a base model.

        Raises WorkdirError if it does not exist any more.
        """
        from finetune_scaling.runs.run_config import read_run_config
        from finetune_scaling.runs.run_paths import resolve_base

        recorded = read_run_config(self.config).base
        if recorded is None:
            return None
        base = resolve_base(recorded, self.path)
        return Run(load_run(base.run).path, base.step)

    @functools.cached_property
    def curves(self) -> pd.DataFrame:
        """Metrics during training, by step: loss and dev_loss (nats per token), learning_rate, time (UTC), ...

        One row per logged step; NaN in the columns that were not logged at that step.
        """
        with disk_errors(self.path, reading=True):
            lines = pd.DataFrame(RunDirectory(self.path).metrics())
        if lines.empty:
            return pd.DataFrame(columns=_CURVES, index=pd.Index([], name="step", dtype="int64"))
        frame = lines.groupby("step").last()
        if "time" in frame:
            frame["time"] = _times(frame["time"], self.path / METRICS)
        return frame.reindex(columns=[*_CURVES, *(c for c in frame if c not in _CURVES)])

    @functools.cached_property
    def scores(self) -> pd.DataFrame:
        """All scores in the run directory, one per row.

        evaluation: "result" for the run's own test sets, or the evaluator. split: a test set, or "all" sets together.
        of: "model", "untuned" (the base model without tuning) or a baseline. metric: a loss, or a metric that has a
        signature.
        """
        from finetune_scaling.evaluation.records import best_checkpoint_records, evaluation_records

        result = self.result or {}
        with disk_errors(self.path, reading=True):
            records = best_checkpoint_records(self.path, result) if result else dict(evaluation_records(self.path))
        rows = [row for split, scores in result.get("tests", {}).items() for row in _scores("result", split, scores)]
        for name, record in records.items():
            splits = record.get("splits", {})
            for split, scores in {"all": record, **(splits if len(splits) > 1 else {})}.items():
                rows += _scores(name, split, scores)
            for other, scores in {"untuned": record.get("untuned"), **record.get("baselines", {})}.items():
                rows += _scores(name, "all", scores or {}, other)
        return pd.DataFrame(rows, columns=_SCORES)

    @functools.cached_property
    def splits(self) -> list[str]:
        """Names of the sets that have samples: the task's test sets, and EVALUATOR.SET of evaluators."""
        folder = self.path / EVALUATION
        with disk_errors(folder, reading=True):
            names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        return sorted(name.removesuffix(".jsonl") for name in names if name.endswith(".jsonl"))

    def samples(self, split: str | None = None) -> pd.DataFrame:
        """Return source, reference, hypothesis and loss (nats per token) of each example, by its index.

        split: one of `splits`; by default the task's first test set. hypothesis is None if the example was not decoded;
        all texts are None for rows of running text. Raises DataError if the split is missing or a line is damaged.
        """
        split = split or next(iter((self.result or {}).get("tests", self.splits)), "test")
        file = self.path / EVALUATION / f"{split}.jsonl"
        with disk_errors(self.path, reading=True):
            rows = pd.DataFrame(read_rows(file, ("index", "loss_sum", "tokens"))).set_index("index")
        rows["loss"] = rows["loss_sum"] / rows["tokens"]
        frame = rows.reindex(columns=["source", "reference", "hypothesis", "loss", "tokens", "target_language"])
        frame[_TEXTS] = frame[_TEXTS].astype(object).where(frame[_TEXTS].notna(), None)
        return frame

    @functools.cached_property
    def steps(self) -> list[int]:
        """The steps that have a complete checkpoint."""
        from finetune_scaling.runs.checkpoints import checkpoint_steps

        with disk_errors(self.path, reading=True):
            return sorted(checkpoint_steps(self.path))

    def params(self, step: int | None = None) -> dict[str, Any]:
        """Return the trainable parameters as a nested dict of NumPy arrays: a model, an adapter or a soft prompt.

        step: the checkpoint; by default the run's `step`. Raises CheckpointError if it is missing or damaged.
        """
        from finetune_scaling.runs.checkpoints import read_trainable
        from finetune_scaling.runs.model_loading import find_run

        return read_trainable(find_run(self.path, self.step if step is None else step).path)[0]

    def model(self, step: int | None = None) -> "TunedModel":
        """Return the complete model of a checkpoint on the available devices; the last one stays in memory.

        step: as in `params`. Raises CheckpointError if it is missing, damaged or of another base or tokenizer.
        """
        evaluated = self._evaluated_model(step)
        if self._loaded is None or self._loaded[0] != evaluated.checkpoint:
            self._loaded = None  # two models may not fit into memory
            self._loaded = evaluated.checkpoint, evaluated.load()
        return self._loaded[1]

    def generate(
        self,
        texts: Iterable[str],
        step: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
        **decoding: Any,
    ) -> list[str]:
        """Return the completion of every text, decoded as in the evaluate command.

        A finetuned run takes each text as a source text of its task, truncated as in training; a base model continues
        it.

        Args:
            texts: a list or a column of texts.
            step: the checkpoint, as in `params`.
            source_language: language of the texts, if the task has several language pairs.
            target_language: language of the completions, if the task has several language pairs.
            decoding: fields of DecodingConfig to override, such as method="beam", beams=4.

        Raises ConfigError for a wrong option or a text that is too long, and the errors of `model`.
        """
        from finetune_scaling.reading.generation import generate

        languages = (source_language, target_language)
        return generate(self._evaluated_model(step).run_config, lambda: self.model(step), texts, languages, decoding)

    def losses(
        self,
        texts: Iterable[str],
        targets: Iterable[str] | None = None,
        step: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> pd.DataFrame:
        """Return loss, loss_per_byte (nats), loss_sum, tokens and bytes of every text, one row per text.

        A finetuned run takes each text as a source text and scores its target and the end token, as its test sets are
        scored. A base model scores the tokens of each text after the first (after bos, where it has one), or with
        `targets` each of them as the continuation of its text.

        Args:
            texts: a list or a column of texts.
            targets: the target of each text.
            step: the checkpoint, as in `params`.
            source_language: language of the texts, if the task has several language pairs.
            target_language: language of the targets, if the task has several language pairs.

        Raises ConfigError for missing targets or a text that is too long, and the errors of `model`.
        """
        from finetune_scaling.reading.predictions import losses

        languages = (source_language, target_language)
        return losses(self._evaluated_model(step).run_config, lambda: self.model(step), texts, targets, languages)

    def logits(
        self,
        text: str,
        target: str | None = None,
        step: int | None = None,
        source_language: str | None = None,
        target_language: str | None = None,
    ) -> "Logits":
        """Return the ids of a text, int32[n], and its logits, float32[n, V]: logits[i] predict what follows ids[i].

        A finetuned run takes the text as a source text, so the last logits are those of the first token of a
        completion; `target` is appended to the prompt. The arguments are those of `losses`.
        """
        from finetune_scaling.reading.predictions import logits

        languages = (source_language, target_language)
        return logits(self._evaluated_model(step).run_config, lambda: self.model(step), text, target, languages)

    def _evaluated_model(self, step: int | None) -> "EvaluatedModel":
        from finetune_scaling.reading.generation import open_model

        if step not in self._models:
            self._models[step] = open_model(self.path, self.step if step is None else step)
        return self._models[step]


def _times(seconds: pd.Series, file: Location) -> pd.Series:
    try:
        return pd.to_datetime(seconds, unit="s", utc=True)
    except (ValueError, OverflowError) as error:
        raise WorkdirError(f"{file}: a time is damaged ({error}). Fix: restore an intact copy") from None


def _scores(evaluation: str, split: str, scores: Mapping[str, Any], of: str = "model") -> list[tuple[Any, ...]]:
    """Return rows of the columns _SCORES."""
    from finetune_scaling.evaluation.records import score_values

    signatures = {name: entry.get("signature") for name, entry in scores.get("metrics", {}).items()}
    return [(evaluation, split, of, name, score, signatures.get(name)) for name, score in score_values(scores).items()]
