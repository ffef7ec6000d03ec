"""A metric computed by another program, with a cache of scores.

docs/metrics.md defines the protocol; process.py implements our side, adapters/ the programs' side for known metrics.
"""

import dataclasses
import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from finetune_scaling.configuration import build, plain
from finetune_scaling.errors import ConfigError, UserError
from finetune_scaling.messages import one_line
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.learned.environment import metric_interpreter, metric_variables, metrics_cache
from finetune_scaling.metrics.learned.process import start_metric
from finetune_scaling.metrics.learned.score_cache import open_score_cache
from finetune_scaling.metrics.metric import SegmentLevel, SegmentScores
from finetune_scaling.paths import UserPath, user_path
from finetune_scaling.progress import log_progress
from finetune_scaling.sharding.processes import run_on_primary

ADAPTERS = Path(__file__).parent / "adapters"

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LearnedMetric(SegmentLevel):
    """A program that scores segments.

    Attributes:
      name: letters, digits, ".", "_", "+" and "-" only.
      command: the program and its arguments. {python} is replaced by the interpreter of the metric's own environment
        (this process's if there are no requirements), {adapters} by the directory of our adapters, {model} and
        {batch_size} by those fields.
      requirements: packages that pip installs into the metric's environment.
      model: the model that the program loads, a name or a path.
      needs_sources: whether every segment needs a source.
      batch_size: segments per batch of the program.
      timeout: seconds without output, model loading included, after which the program counts as hung.
    """

    command: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    model: UserPath = ""
    needs_sources: bool = True
    batch_size: int = 32
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not self.name or not all(char.isalnum() or char in "._+-" for char in self.name):
            raise ConfigError(f"metric name {self.name!r}: give letters, digits, '.', '_', '+' and '-' only")
        if not self.command:
            raise ConfigError(f"metric {self.name}: command is empty; give the program and its arguments")
        if self.batch_size < 1 or self.timeout <= 0:
            raise ConfigError(f"metric {self.name}: batch_size must be at least 1 and timeout above 0")
        try:
            self._command(sys.executable)
        except (LookupError, ValueError) as error:
            raise ConfigError(
                f"metric {self.name}: command = {self.command} cannot be filled in ({error!r}); only {{python}}, "
                "{adapters}, {model} and {batch_size} are replaced; write other braces twice"
            ) from None

    @property
    def identity(self) -> dict[str, Any]:
        """The fields that distinguish its scores from those of another program or model with the same name."""
        return {name: plain(getattr(self, name)) for name in ("name", "command", "requirements", "model")}

    def check_program(self) -> None:
        """Raise ConfigError if the program is missing, before anything is decoded for it."""
        program = self._command(sys.executable)[0]
        if shutil.which(program) is None:
            raise ConfigError(
                f"metric {self.name}: its command {program!r} cannot be run; install it, or change `command` in the "
                "metric's config"
            )

    def segments(self, corpus: Corpus) -> SegmentScores:
        """Return the score of every segment on the metric's own scale; only the primary process runs the program.

        Raises:
          ConfigError: sources are needed but not given, or the command is missing.
          MetricError: the environment cannot be created, or the program fails; scores computed before are kept.
        """
        if self.needs_sources and corpus.sources is None:
            raise ConfigError(f"metric {self.name} needs sources; give --sources=FILE, or omit the metric")
        values, signature = run_on_primary(lambda: self._segments(corpus))
        return SegmentScores(np.array(values, np.float64), signature)

    def _segments(self, corpus: Corpus) -> tuple[list[float], str]:
        sources: Sequence[str | None] = corpus.sources or [None] * len(corpus.hypotheses)
        contents: list[dict[str, Any]] = [
            {"source": source, "hypothesis": text, "references": list(references)}
            for source, text, references in zip(sources, corpus.hypotheses, corpus.references, strict=True)
        ]
        python = str(metric_interpreter(self.name, self.requirements))
        variables = metric_variables(isolated=bool(self.requirements))
        with (
            start_metric(self.name, self._command(python), self.timeout, variables) as process,
            open_score_cache(metrics_cache() / "scores.sqlite") as cache,
        ):
            keys = [_key(process.header, content) for content in contents]
            known = cache.get(keys)
            missing = {key: content for key, content in zip(keys, contents, strict=True) if key not in known}
            log.info("%s: %d of %d segments are in the cache", self.name, len(keys) - len(missing), len(keys))
            # Sorted by length, so that the segments of a batch have similar lengths.
            order = sorted(missing, key=lambda key: len(missing[key]["hypothesis"]), reverse=True)
            answers = process.scores([missing[key] for key in order])
            for index, value in log_progress(answers, len(order), self.name):
                cache.put(order[index], value)
                known[order[index]] = value
        return [known[key] for key in keys], _signature(process.header, corpus)

    def _command(self, python: str) -> list[str]:
        """Return the command with its fields filled in. Raises LookupError or ValueError for other braces."""
        fields = {"python": python, "adapters": ADAPTERS, "model": self.model, "batch_size": self.batch_size}
        return [word.format(**fields) for word in self.command]


def read_learned_metric(name: str) -> LearnedMetric:
    """Return the metric of a config file FILE.py[:ARGUMENT]. Raises ConfigError if the file is missing or invalid."""
    try:
        config = ConfigFileFlagParser("metrics").parse(user_path(name))
        values = plain(config if isinstance(config, ConfigDict | Mapping) else config.to_dict())
    except UserError:
        raise
    except Exception as error:  # a config file is Python and may raise anything
        reason = one_line(str(error))
        raise ConfigError(
            f"--metrics: {name} cannot be read ({reason}); name a file whose get_config() returns a metric's fields, "
            "such as configs/metrics/comet.py"
        ) from error
    return build(LearnedMetric, values, os.path.basename(name.partition(":")[0]))


def _key(header: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Return the cache key of a score: a digest of the segment and of the program's header."""
    return hashlib.sha256(json.dumps([header, content], sort_keys=True).encode()).hexdigest()


def _signature(header: Mapping[str, Any], corpus: Corpus) -> str:
    others = "".join(f"|{name}:{value}" for name, value in header.items() if name not in ("protocol", "version"))
    return f"nrefs:{corpus.reference_count}{others}|score:mean-of-segments|version:{header['version']}"
