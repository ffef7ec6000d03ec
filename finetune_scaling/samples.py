"""Show the texts that runs generated: python -m finetune_scaling.samples --runs=RUN,RUN --out=FILE.html

Writes one self-contained HTML page with source, reference and each run's hypothesis, its sentence-level score and
marked differences, which can be sorted and filtered. The scores are also written as JSON.
"""

import glob
import logging
import time
from collections.abc import Callable

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.page import write_page
from finetune_scaling.evaluation.sample_page.samples import RunSamples, align, read_runs
from finetune_scaling.evaluation.sample_page.sentence_scores import DEFAULTS, SCORERS, sentence_scores
from finetune_scaling.files import local_path

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0

_RUNS = flags.DEFINE_list("runs", None, "Directories of scored runs, or glob patterns.")
_NAMES = flags.DEFINE_list("names", None, "Names of the runs; default: the parts of their paths that differ.")
_SPLIT = flags.DEFINE_string("split", "test", "Rows to show: evaluation/SPLIT.jsonl of each run.")
_SCORE = flags.DEFINE_enum("score", None, list(SCORERS), "Sentence-level score; default: by the kind of task.")
_EXAMPLES = flags.DEFINE_integer("examples", None, "Show only the first N rows; default: all.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "samples.html", "HTML file to write; the scores go to the same name with .json.")


def main() -> None:
    """Read and score the rows of the runs, and write the page."""
    directories, names = matching_directories(command.required(_RUNS)), _NAMES.value
    out = local_path(_OUT.value, "a page of samples")
    if names is not None and len(names) != len(directories):
        raise ConfigError(f"--names has {len(names)} names for {len(directories)} runs; give one name per run")
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"--names={','.join(names)} repeats a name; give different names")
    if len(set(directories)) < len(directories):
        raise ConfigError("--runs repeats a directory; name it once")
    runs = read_runs(directories, names, _SPLIT.value, _EXAMPLES.value)
    samples = align(runs)
    scores = sentence_scores(_SCORE.value or _default_score(runs), samples, _progress(len(samples)))
    json_path = write_page(out, _SPLIT.value, runs, samples, scores)
    labels = ", ".join(run.name for run in runs)
    print(f"{out}: {len(samples)} examples of {_SPLIT.value} by {labels}")
    print(f"{json_path}: {scores.metric} ({scores.signature})")


def matching_directories(patterns: list[str]) -> list[str]:
    """Return the directories that the patterns name or match, in order. Raises ConfigError for one without match."""
    found = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise ConfigError(f"--runs: {pattern} matches no directory")
        found += matches
    return found


def _default_score(runs: list[RunSamples]) -> str:
    """Return the score for the first task among the runs; base models have none and are scored like translations."""
    kinds = [run.task.kind for run in runs if run.task]
    return DEFAULTS[kinds[0] if kinds else "translation"]


def _progress(total: int) -> Callable[[int], None]:
    """Return a callback that logs the number of scored samples every few seconds."""
    next_time = time.monotonic() + PROGRESS_SECONDS

    def report(done: int) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            log.info("scored %d of %d examples", done, total)
            next_time = time.monotonic() + PROGRESS_SECONDS

    return report


if __name__ == "__main__":
    command.run(main)
