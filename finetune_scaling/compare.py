"""Compares systems with the first of them: do they differ by more than the choice of segments?

    python -m finetune_scaling.compare --systems=a=FILE,b=FILE --references=FILE --target-language=de --out=FILE.json
    python -m finetune_scaling.compare --runs=full=RUN,lora=RUN --split=test --target-language=de --out=FILE.json

Files hold one segment a line; of runs the rows in evaluation/SPLIT.jsonl are read. One system alone gets intervals.
"""

import os
from collections.abc import Sequence

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.comparison import LOSSES, System, compare, systems_from_files, systems_from_runs, table
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.metric_names import check_distinct, named_metric
from finetune_scaling.evaluation.significance import DEFAULT_SAMPLES, Procedure
from finetune_scaling.files import write_json_atomically

_SYSTEMS = flags.DEFINE_list("systems", None, "NAME=FILE of each system's hypotheses; the first is the baseline.")
_REFERENCES = flags.DEFINE_list("references", None, "Files of references, one segment a line.")
_SOURCES = flags.DEFINE_string("sources", None, "File of sources, one segment a line.")
_RUNS = flags.DEFINE_list("runs", None, "RUN or NAME=RUN of each run's directory; the first is the baseline.")
_SPLIT = flags.DEFINE_string("split", "test", "Whose rows of the runs to read: evaluation/SPLIT.jsonl.")
_LANGUAGE = flags.DEFINE_string("target_language", "", "Language code of the hypotheses: de, zh, ...")
_METRICS = flags.DEFINE_list(
    "metrics", ["bleu", "chrf", "ter", "rougeL"], "Metrics as for evaluate; of runs also loss and loss_per_byte."
)
_TEST = flags.DEFINE_enum("test", "randomization", list(DEFAULT_SAMPLES), "Paired test.")
_SAMPLES = flags.DEFINE_integer("samples", None, "Shuffles (default 10000) or resamples (1000).", lower_bound=1)
_SEED = flags.DEFINE_integer("seed", 12345, "Seed of the draws; sacrebleu's own default.", lower_bound=1)
_OUT = flags.DEFINE_string("out", "", "JSON file for the result.")


def main() -> None:
    """Compares what the flags name, writes the result and prints it as a table."""
    out, language = command.required(_OUT), command.required(_LANGUAGE)
    procedure = Procedure(_TEST.value, _SAMPLES.value or DEFAULT_SAMPLES[_TEST.value], _SEED.value)
    metrics = _chosen(_METRICS.value, losses=bool(_RUNS.value))
    result = compare(_systems(language), metrics, procedure)
    write_json_atomically(out, result)
    print(table(result))


def _systems(language: str) -> list[System]:
    if bool(_SYSTEMS.value) == bool(_RUNS.value):
        raise ConfigError("give --systems and --references to compare files, or --runs to compare runs")
    if _SYSTEMS.value:
        if flags.FLAGS[_SPLIT.name].present:
            raise ConfigError("--split is for runs (--runs); files are compared as they are, so leave it out")
        files = _named(_SYSTEMS.value, "systems", name_needed=True)
        return systems_from_files(files, _REFERENCES.value or [], _SOURCES.value, language)
    for flag in (_REFERENCES, _SOURCES):
        if flag.value:
            raise ConfigError(f"--{flag.name} is for files (--systems); runs bring their own, so leave it out")
    return systems_from_runs(_named(_RUNS.value or (), "runs", name_needed=False), _SPLIT.value, language)


def _named(values: Sequence[str], flag: str, name_needed: bool) -> dict[str, str]:
    """NAME=PATH pairs in order; a path without a name is called by its last part."""
    named: dict[str, str] = {}
    for value in values:
        name, separator, path = value.partition("=")
        if not separator and name_needed:
            raise ConfigError(f"--{flag}: {value!r} is not NAME=FILE")
        if not separator:
            name, path = os.path.basename(value.rstrip("/")), value
        if not name or not path:
            raise ConfigError(f"--{flag}: {value!r} lacks a name or a path; write NAME=PATH")
        if name in named:
            raise ConfigError(f"--{flag}: two are called {name}; give names of your own: NAME=PATH")
        named[name] = path
    return named


def _chosen(names: Sequence[str], losses: bool) -> list[Metric | str]:
    """Metrics in the order of the flag; those of LOSSES stay names."""
    for name in names:
        if name in LOSSES and not losses:
            raise ConfigError(f"--metrics: {name} is of runs (--runs); files hold no losses")
    metrics = [name if name in LOSSES else named_metric(name) for name in names]
    check_distinct([metric if isinstance(metric, str) else metric.name for metric in metrics])
    return metrics


if __name__ == "__main__":
    command.run(main)
