"""Shows what runs wrote, side by side: python -m finetune_scaling.samples --runs=RUN,RUN --out=FILE.html

One page of HTML that needs no network: source, reference, and of each run the hypothesis with its score and with the
differences marked, to be sorted and filtered. The scores are written beside it as JSON.
"""

import glob
import logging
import time
from collections.abc import Callable
from pathlib import Path

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.page import write_samples
from finetune_scaling.evaluation.sample_page.samples import RunSamples, joined, read_runs
from finetune_scaling.evaluation.sample_page.sentence_scores import DEFAULTS, SCORERS, sentence_scores
from finetune_scaling.files import local_path

log = logging.getLogger(__name__)

PROGRESS_SECONDS = 5.0

_RUNS = flags.DEFINE_list("runs", None, "Directories of scored runs, or globs; they stand side by side.")
_NAMES = flags.DEFINE_list("names", None, "What the runs are called; default: what their paths do not share.")
_SPLIT = flags.DEFINE_string("split", "test", "Which rows: a file of the runs' evaluation/, without .jsonl.")
_SCORE = flags.DEFINE_enum("score", None, list(SCORERS), "Score of a hypothesis; default: by the kind of task.")
_EXAMPLES = flags.DEFINE_integer("examples", None, "The first so many examples; default: all.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "samples.html", "The page; the scores go to the same name in .json.")


def main() -> None:
    """Reads, checks and scores the rows, and writes the page."""
    directories, names = directories_of(command.required(_RUNS)), _NAMES.value
    out = local_path(_OUT.value, "a page of samples")
    if names is not None and len(names) != len(directories):
        raise ConfigError(f"--names has {len(names)} names for {len(directories)} runs; give one for each")
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"--names={','.join(names)} has a name twice; runs must be told apart")
    if len(set(directories)) < len(directories):
        raise ConfigError("--runs names a directory twice; leave one of them out")
    write(directories, names, _SPLIT.value, _SCORE.value, _EXAMPLES.value, out)


def directories_of(patterns: list[str]) -> list[str]:
    """The directories that are named, and those that a glob matches, in order. ConfigError where it matches none."""
    found = []
    for pattern in patterns:
        matches = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
        if not matches:
            raise ConfigError(f"--runs: {pattern} matches no directory")
        found += matches
    return found


def write(
    directories: list[str], names: list[str] | None, split: str, score: str | None, most: int | None, out: Path
) -> None:
    """Writes the page and its scores, and prints where."""
    runs = read_runs(directories, names, split, most)
    examples = joined(runs)
    scores = sentence_scores(score or _usual_score(runs), examples, _progress(len(examples)))
    twin = write_samples(out, split, runs, examples, scores)
    by = ", ".join(run.name for run in runs)
    print(f"{out}: {len(examples)} examples of {split} by {by}; {scores.metric} ({scores.signature}) in {twin}")


def _usual_score(runs: list[RunSamples]) -> str:
    """The score of the first run's kind of task; a base, which has none, is scored as a translation is."""
    kinds = [run.task.kind for run in runs if run.task]
    return DEFAULTS[kinds[0] if kinds else "translation"]


def _progress(total: int) -> Callable[[int], None]:
    """Tells every few seconds how many examples are scored."""
    next_time = time.monotonic() + PROGRESS_SECONDS

    def tell(done: int) -> None:
        nonlocal next_time
        if time.monotonic() >= next_time:
            log.info("scored %d of %d examples", done, total)
            next_time = time.monotonic() + PROGRESS_SECONDS

    return tell


if __name__ == "__main__":
    command.run(main)
