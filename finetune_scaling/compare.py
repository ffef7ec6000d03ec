"""Compare systems with the first one: scores, 95 % intervals, differences and p-values.

    python -m finetune_scaling.compare --systems=a=FILE,b=FILE --references=FILE --target-language=de --out=FILE.json
    python -m finetune_scaling.compare --runs=full=RUN,lora=RUN --split=test --target-language=de --out=FILE.json

Files have one segment per line. Runs are read from evaluation/SPLIT.jsonl. A single system gets intervals only.
"""

import os
from collections.abc import Sequence

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import integer_flag, path_flag, paths_flag, required
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.comparison import LOSSES, System, compare, systems_from_files, systems_from_runs, table
from finetune_scaling.files import write_json_atomically
from finetune_scaling.metrics.languages import check_language
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.metrics.registry import check_unique_names, find_metric
from finetune_scaling.metrics.significance import DEFAULT_SAMPLES, Procedure
from finetune_scaling.paths import user_path

_SYSTEMS = flags.DEFINE_list(
    "systems", None, "NAME=FILE with each system's hypotheses; the first system is the baseline."
)
_REFERENCES = paths_flag("references", "Files of references, one segment per line.")
_SOURCES = path_flag("sources", "File of sources, one segment per line.", default=None)
_RUNS = flags.DEFINE_list("runs", None, "RUN or NAME=RUN for each run directory; the first run is the baseline.")
_SPLIT = flags.DEFINE_string("split", "test", "Rows of the runs to read: evaluation/SPLIT.jsonl.")
_LANGUAGE = flags.DEFINE_string("target_language", "", "Language code of the hypotheses: de, zh, ...")
_METRICS = flags.DEFINE_list(
    "metrics", ["bleu", "chrf", "ter", "rougeL"], "Metrics as for evaluate; for runs also loss and loss_per_byte."
)
_TEST = flags.DEFINE_enum("test", "randomization", list(DEFAULT_SAMPLES), "Paired test.")
_SAMPLES = integer_flag(
    "samples", None, "Number of shuffles (default 10000) or resamples (default 1000).", lower_bound=1
)
_SEED = integer_flag("seed", 12345, "Random seed; the default is sacrebleu's.", lower_bound=1)
_OUT = path_flag("out", "JSON file to write the result to.")


def main() -> None:
    """Compare the given systems or runs, write the result as JSON and print it as a table."""
    out, language = required(_OUT), required(_LANGUAGE)
    check_language(language, "--target-language")
    procedure = Procedure(_TEST.value, _SAMPLES.value or DEFAULT_SAMPLES[_TEST.value], _SEED.value)
    metrics = _select_metrics(_METRICS.value, losses=bool(_RUNS.value))
    result = compare(_systems(language), metrics, procedure)
    write_json_atomically(out, result)
    print(table(result))


def _systems(language: str) -> list[System]:
    if bool(_SYSTEMS.value) == bool(_RUNS.value):
        raise ConfigError("give either --systems and --references to compare files, or --runs to compare runs")
    if _SYSTEMS.value:
        command.reject([_SPLIT], "is for runs (--runs)")
        files = _parse_paths(_SYSTEMS.value, "systems", name_needed=True)
        return systems_from_files(files, _REFERENCES.value or [], _SOURCES.value, language)
    command.reject([_REFERENCES, _SOURCES], "is for files (--systems); the rows of runs contain them")
    return systems_from_runs(_parse_paths(_RUNS.value or (), "runs", name_needed=False), _SPLIT.value, language)


def _parse_paths(values: Sequence[str], flag: str, name_needed: bool) -> dict[str, str]:
    """Parse NAME=PATH pairs in order; the default name of a path is its last part."""
    named: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator and name_needed:
            raise ConfigError(f"--{flag}: {value!r} is not of the form NAME=FILE")
        if not separator:
            name, path = os.path.basename(value.rstrip("/")), value
        if not name or not path:
            raise ConfigError(f"--{flag}: {value!r} has an empty name or path; write NAME=PATH")
        if name in named:
            raise ConfigError(f"--{flag}: the name {name} is used twice; give different names as NAME=PATH")
        named[name] = user_path(path)
    return named


def _select_metrics(names: Sequence[str], losses: bool) -> list[Metric | str]:
    """Return the metrics in the order of the flag; names in LOSSES stay strings."""
    for name in names:
        if name in LOSSES and not losses:
            raise ConfigError(f"--metrics: {name} is for runs (--runs); files contain no losses")
    metrics = [name if name in LOSSES else find_metric(name) for name in names]
    check_unique_names([metric if isinstance(metric, str) else metric.name for metric in metrics])
    return metrics


if __name__ == "__main__":
    command.run(main)
