"""Show the texts that runs generated: python -m finetune_scaling.samples --runs=RUN,RUN --out=FILE.html

Writes one self-contained HTML page with source, reference and each run's hypothesis, its sentence-level score and
marked differences, which can be sorted and filtered. The scores are also written as JSON.
"""

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import expand_globs, integer_flag, path_flag, paths_flag, required
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.sample_page.page import write_page
from finetune_scaling.evaluation.sample_page.samples import RunSamples, align, read_runs
from finetune_scaling.evaluation.sample_page.sentence_scores import DEFAULTS, SCORERS, sentence_scores
from finetune_scaling.files import local_path

_RUNS = paths_flag("runs", "Directories of scored runs, or glob patterns.")
_NAMES = flags.DEFINE_list("names", None, "Names of the runs; default: the parts of their paths that differ.")
_SPLIT = flags.DEFINE_string("split", "test", "Rows to show: evaluation/SPLIT.jsonl of each run.")
_SCORE = flags.DEFINE_enum("score", None, list(SCORERS), "Sentence-level score; default: by the kind of task.")
_EXAMPLES = integer_flag("examples", None, "Show only the first N rows; default: all.", lower_bound=1)
_OUT = path_flag("out", "HTML file to write; the scores go to the same name with .json.", default="samples.html")


def main() -> None:
    """Read and score the rows of the runs, and write the page."""
    directories, names = expand_globs(_RUNS, required(_RUNS)), _NAMES.value
    out = local_path(_OUT.value, "a page of samples")
    if names is not None and len(names) != len(directories):
        raise ConfigError(f"--names has {len(names)} names for {len(directories)} runs; give one name per run")
    if names is not None and len(set(names)) < len(names):
        raise ConfigError(f"--names={','.join(names)} repeats a name; give different names")
    runs = read_runs(directories, names, _SPLIT.value, _EXAMPLES.value)
    samples = align(runs)
    scores = sentence_scores(_SCORE.value or _default_score(runs), samples)
    json_path = write_page(out, _SPLIT.value, runs, samples, scores)
    labels = ", ".join(run.name for run in runs)
    print(f"{out}: {len(samples)} examples of {_SPLIT.value} by {labels}")
    print(f"{json_path}: {scores.metric} ({scores.signature})")


def _default_score(runs: list[RunSamples]) -> str:
    """Return the score for the first task among the runs; base models have none and are scored like translations."""
    kinds = [run.task.kind for run in runs if run.task]
    return DEFAULTS[kinds[0] if kinds else "translation"]


if __name__ == "__main__":
    command.run(main)
