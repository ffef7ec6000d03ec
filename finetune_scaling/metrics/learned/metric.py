"""A metric that another program computes: what is scored once is kept, and only the rest goes to the program.

docs/metrics.md states the protocol; process.py speaks it, adapters/ hold programs that speak it for known metrics.
"""

import dataclasses
import hashlib
import json
import logging
import math
import os
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from ml_collections.config_flags.config_flags import ConfigFileFlagParser

from finetune_scaling.configuration import build, plain
from finetune_scaling.errors import ConfigError, UserError
from finetune_scaling.metrics.corpus import Corpus
from finetune_scaling.metrics.learned.environment import metrics_cache, tool_interpreter, tool_variables
from finetune_scaling.metrics.learned.process import MetricProcess
from finetune_scaling.metrics.learned.score_cache import ScoreCache
from finetune_scaling.metrics.metric import SegmentScores
from finetune_scaling.sharding.processes import run_on_primary

ADAPTERS = Path(__file__).parent / "adapters"

_PROGRESS_SECONDS = 5.0

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class LearnedMetric:
    """A program that scores segments, and what it needs.

    name: key of the score in JSON and tables: letters, digits, ".", "_", "+" and "-".
    command: the program and its arguments. {python} stands for the interpreter of the metric's own environment (this
      process's where there are no requirements), {adapters} for the folder of our adapters, {model} and {batch_size}
      for those fields.
    requirements: what pip installs into that environment, which is made once and kept.
    model: what the program loads: a name it knows, or a path.
    needs_sources: whether a source is needed for each segment.
    lower_is_better: whether it predicts errors.
    batch_size: segments that the program scores at a time.
    timeout: seconds without a line from the program after which it counts as hung; loading its model counts, too.
    """

    name: str
    command: tuple[str, ...]
    requirements: tuple[str, ...] = ()
    model: str = ""
    needs_sources: bool = True
    lower_is_better: bool = False
    batch_size: int = 32
    timeout: float = 1800.0

    def __post_init__(self) -> None:
        if not self.name or not all(char.isalnum() or char in "._+-" for char in self.name):
            raise ConfigError(f"metric name {self.name!r}: give letters, digits, '.', '_', '+' and '-' only")
        if not self.command:
            raise ConfigError(f"metric {self.name}: command is empty; give the program and its arguments")
        if self.batch_size < 1 or self.timeout <= 0:
            raise ConfigError(f"metric {self.name}: batch_size must be at least 1 and timeout above 0")
        for word in self.command:
            try:
                word.format(python="", adapters="", model="", batch_size="")
            except (KeyError, IndexError, ValueError):
                raise ConfigError(
                    f"metric {self.name}: command has {word!r}; only {{python}}, {{adapters}}, {{model}} and "
                    "{batch_size} can stand in braces, and a brace itself is written twice"
                ) from None

    @property
    def identity(self) -> dict[str, Any]:
        """What tells its scores from those of another program or model of the same name."""
        return {name: plain(getattr(self, name)) for name in ("name", "command", "requirements", "model")}

    def check_program(self) -> None:
        """Raises ConfigError where the program is not there, so that nothing is decoded for it in vain."""
        program = self.command[0].format(python=sys.executable, adapters=ADAPTERS, model=self.model, batch_size="")
        if shutil.which(program) is None:
            raise ConfigError(
                f"metric {self.name}: its command {program!r} cannot be run; install it, or change `command` in the "
                "metric's config"
            )

    def score(self, corpus: Corpus) -> dict[str, Any]:
        """The mean over segments, on the metric's own scale, and the signature."""
        return self.segments(corpus).mean()

    def segments(self, corpus: Corpus) -> SegmentScores:
        """The score of every segment; of several processes the first one runs the program.

        Raises:
          ConfigError: sources are needed and not given, or the command is missing.
          MetricError: the environment cannot be made, or the program fails; the scores it gave before are kept.
        """
        if self.needs_sources and corpus.sources is None:
            raise ConfigError(f"metric {self.name} reads sources; give them (--sources=FILE), or leave it out")
        values, signature = run_on_primary(lambda: self._segments(corpus))
        return SegmentScores(np.array(values, np.float64), signature)

    def _segments(self, corpus: Corpus) -> tuple[list[float], str]:
        contents = [_content(corpus, index) for index in range(len(corpus.hypotheses))]
        with (
            MetricProcess(self.name, self._command(), self.timeout, tool_variables(bool(self.requirements))) as process,
            ScoreCache(metrics_cache() / "scores.sqlite") as cache,
        ):
            keys = [_key(process.header, content) for content in contents]
            known = cache.get(keys)
            missing = {key: content for key, content in zip(keys, contents, strict=True) if key not in known}
            log.info("%s: %d of %d segments were scored before", self.name, len(keys) - len(missing), len(keys))
            order = sorted(missing, key=lambda key: len(missing[key]["hypothesis"]), reverse=True)  # alike in length
            answers = process.scores([missing[key] for key in order])
            for place, value in _with_progress(self.name, answers, len(order)):
                cache.put(order[place], value, more=process.has_more)
                known[order[place]] = value
        return [known[key] for key in keys], _signature(process.header, corpus)

    def _command(self) -> list[str]:
        python = str(tool_interpreter(self.name, self.requirements))
        parts = {"python": python, "adapters": str(ADAPTERS), "model": self.model, "batch_size": self.batch_size}
        return [word.format(**parts) for word in self.command]


def is_config(name: str) -> bool:
    """Whether the name of a metric is that of a config file: FILE.py, or FILE.py:ARGUMENT."""
    return name.partition(":")[0].endswith(".py")


def read_learned_metric(name: str) -> LearnedMetric:
    """The metric of a config file FILE.py[:ARGUMENT]. Raises ConfigError where it cannot be read or is none."""
    try:
        config = ConfigFileFlagParser("metrics").parse(name)
        values = plain(config if isinstance(config, ConfigDict | Mapping) else config.to_dict())
    except UserError:
        raise
    except Exception as error:  # a config file is Python, whatever a program can raise; some of it comes on first use
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"--metrics: {name} cannot be read ({reason}); name a file whose get_config() returns a metric's fields, "
            "such as configs/metrics/comet.py"
        ) from error
    return build(LearnedMetric, values, os.path.basename(name.partition(":")[0]))


def _content(corpus: Corpus, index: int) -> dict[str, Any]:
    """What a segment's score depends on."""
    return {
        "source": None if corpus.sources is None else corpus.sources[index],
        "hypothesis": corpus.hypotheses[index],
        "references": list(corpus.references[index]),
    }


def _key(header: Mapping[str, Any], content: Mapping[str, Any]) -> str:
    """Names a score: what was scored, and everything that the program says of itself."""
    return hashlib.sha256(json.dumps([header, content], sort_keys=True).encode()).hexdigest()


def _signature(header: Mapping[str, Any], corpus: Corpus) -> str:
    others = "".join(f"|{name}:{value}" for name, value in header.items() if name not in ("protocol", "version"))
    return f"nrefs:{corpus.reference_count}{others}|score:mean-of-segments|version:{header['version']}"


def _with_progress(name: str, answers: Iterable[Any], total: int) -> Iterator[Any]:
    """Passes answers on and tells of them; what came before the first one was loading, and no rate."""
    began = told = math.inf
    for count, answer in enumerate(answers, start=1):
        yield answer
        now = time.monotonic()
        began, told = min(began, now), min(told, now)
        if now - told >= _PROGRESS_SECONDS and count < total:
            told = now
            log.info("%s: %d of %d, about %.0f s left", name, count, total, (now - began) / count * (total - count))
