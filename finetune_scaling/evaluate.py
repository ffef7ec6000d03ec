"""Score runs, base models, public models, studies, or text files.

    python -m finetune_scaling.evaluate --workdir=RUN --out=FILE.json [--split=test --step=N --generate=200]
    python -m finetune_scaling.evaluate --workdir=RUN[,RUN...] --evaluators=zero_shot,few_shot_1 [--config=FILE]
    python -m finetune_scaling.evaluate --workdir=MODEL --config=FILE --evaluators=test,few_shot_1 [--tokenizer=DIR]
    python -m finetune_scaling.evaluate --study=DIR --evaluators=few_shot_1,few_shot_5,pretraining [--index=I --of=N]
    python -m finetune_scaling.evaluate --hypotheses=FILE --references=FILE[,FILE] --target-language=de --out=FILE.json
    python -m finetune_scaling.evaluate --rows=RUN/evaluation/test.jsonl --out=FILE.json

Text files have one segment per line. A run's hypotheses and losses are written next to the scores as JSONL, one object
per example. Existing records are not recomputed, so an interrupted command resumes when it is repeated.
"""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import (
    config_flag,
    expand_globs,
    integer_flag,
    path_flag,
    paths_flag,
    read_config,
    required,
)
from finetune_scaling.errors import EXIT_FAILED, ConfigError, DataError
from finetune_scaling.evaluation.example_rows import decoded_examples, read_rows
from finetune_scaling.evaluation.jobs import EvaluationJob, EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.evaluation.prepared_evaluation import PreparedEvaluation
from finetune_scaling.evaluation.records import Record, score_values
from finetune_scaling.evaluation.scoring import text_scores
from finetune_scaling.files import local_path, location, write_json_atomically
from finetune_scaling.messages import count_noun
from finetune_scaling.metrics.corpus import read_corpus
from finetune_scaling.metrics.languages import check_language
from finetune_scaling.metrics.metric import Metric
from finetune_scaling.metrics.registry import Scores, metrics_from_flag, score_corpus
from finetune_scaling.names import check_file_names, joint_name
from finetune_scaling.runs.evaluators import (
    TEST_EVALUATOR,
    Evaluator,
    TaskEvaluator,
    read_decoding,
    read_evaluators,
    select_evaluators,
    with_decoding,
    with_overrides,
)
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_directory import lock_directory
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.strict_json import format_json
from finetune_scaling.studies.evaluate import StudyEvaluators, finished_runs, read_recorded_study
from finetune_scaling.studies.grid import read_study
from finetune_scaling.studies.tables import POINTS, write_tables
from finetune_scaling.training.compilations import compiled_programs

_WORKDIR = paths_flag(
    "workdir", "Directories of runs, base models or public models, separated by commas or as glob patterns."
)
_STUDY = path_flag("study", "Study whose finished runs are scored; its points.csv is rewritten.")
_EVALUATORS = flags.DEFINE_list("evaluators", None, "Evaluators by name: the config's, or presets such as few_shot_1.")
_CONFIG = config_flag("config", "Config with evaluators and decoding; for base and public models also with the task.")
_TOKENIZER = path_flag("tokenizer", "Directory of a public model's tokenizer; default: its own.")
_OUT = path_flag("out", "JSON file to write scores to; default for a run: its evaluation/NAME.json.")
_SPLIT = flags.DEFINE_list("split", None, "Splits to score: dev or test sets; default: all test sets of the task.")
_STEP = integer_flag("step", None, "Checkpoint to score; default: the best one, for base models the newest.")
_EXAMPLES = integer_flag("examples", None, "Examples of each split to score; default: all.", lower_bound=1)
_GENERATE = integer_flag("generate", None, "Examples to decode; default: all that are scored.", lower_bound=0)
_METRICS = flags.DEFINE_list(
    "metrics", None, "Metrics by name or config file (FILE.py[:ARGUMENT]); default: BLEU, chrF, chrF++, TER and ROUGE."
)
_UNTUNED = flags.DEFINE_boolean("untuned", None, "Also score the untuned base model; default: yes.")
_AGAIN = flags.DEFINE_boolean("again", False, "Replace existing records.")
_INDEX = integer_flag("index", 0, "Index of this process's share of the runs, from 0.", lower_bound=0)
_OF = integer_flag("of", 1, "Number of shares.", lower_bound=1)
_FSDP = integer_flag("fsdp", 1, "Size of the mesh axis that shards parameters; -1: all devices.")
_TENSOR = integer_flag("tensor", 1, "Size of the mesh axis that shards heads, feed-forward and vocabulary.")
_ATTENTION = flags.DEFINE_string("attention", "", "Attention implementation, if the run's own needs another device.")
_HYPOTHESES = path_flag("hypotheses", "File of hypotheses, one segment per line.")
_ROWS = path_flag("rows", "Instead of --hypotheses: a run's rows, evaluation/SPLIT.jsonl.")
_REFERENCES = paths_flag("references", "Files of references, one segment per line.")
_SOURCES = path_flag("sources", "File of sources, one segment per line.", default=None)
_LANGUAGE = flags.DEFINE_string(
    "target_language", "", "Language code of the hypotheses: de, zh, ...; optional for rows, which have their own."
)

_RUN_FLAGS: tuple[flags.FlagHolder, ...] = (
    *(_EVALUATORS, _SPLIT, _STEP, _EXAMPLES, _GENERATE, _UNTUNED, _AGAIN, _INDEX, _OF),
    *(_FSDP, _TENSOR, _ATTENTION, _TOKENIZER),
)


def main() -> None:
    """Score what the flags name, and print one JSON line per evaluation."""
    if sum(bool(flag.value) for flag in (_WORKDIR, _STUDY, _HYPOTHESES, _ROWS)) != 1:
        raise ConfigError("give exactly one of --workdir, --study, --hypotheses (with --references) and --rows")
    if _EVALUATORS.value == []:
        raise ConfigError("--evaluators is empty; name at least one, or omit the flag")
    if _HYPOTHESES.value or _ROWS.value:
        _score_texts()
    elif _INDEX.value >= _OF.value:
        raise ConfigError(f"--index={_INDEX.value} must be below --of={_OF.value}; shares are counted from 0")
    elif _STUDY.value:
        _score_study(local_path(_STUDY.value, "a study"))
    else:
        _score_models(expand_globs(_WORKDIR, _WORKDIR.value))


def _score_texts() -> None:
    command.reject(_RUN_FLAGS, "is for a run (--workdir), not for texts")
    for flag in (_OUT,) if _ROWS.value else (_LANGUAGE, _OUT):
        required(flag)
    if _LANGUAGE.value:
        check_language(_LANGUAGE.value, "--target-language")
    metrics = metrics_from_flag(_METRICS.value)
    scores = {"metrics": _score_rows(metrics) if _ROWS.value else _score_files(metrics)}
    run_on_primary(lambda: write_json_atomically(_OUT.value, scores))
    notes = {name: entry["note"] for name, entry in scores["metrics"].items() if "note" in entry}
    print(format_json({"metrics": score_values(scores), **({"notes": notes} if notes else {})}))


def _score_files(metrics: tuple[Metric, ...] | None) -> Scores:
    corpus = read_corpus(_HYPOTHESES.value, _REFERENCES.value or [], _SOURCES.value, _LANGUAGE.value)
    return score_corpus(corpus, metrics)


def _score_rows(metrics: tuple[Metric, ...] | None) -> Scores:
    """Return scores of a run's rows; several languages are averaged as in the run's own scores."""
    command.reject([_REFERENCES, _SOURCES], "is for files (--hypotheses); rows contain them")
    examples, texts = decoded_examples(_ROWS.value, read_rows(_ROWS.value), _LANGUAGE.value)
    try:
        return text_scores(examples, texts, metrics)
    except DataError as error:
        raise DataError(f"{_ROWS.value}: {error}") from None


def _score_models(directories: list[str]) -> None:
    config = read_config(_CONFIG) if _CONFIG.value else {}
    if "families" in config:
        raise ConfigError("--config is a study's config; give it with --study, or give a run's config")
    block = config.get("evaluation") or {}
    configured, decoding = read_evaluators(block.get("evaluators")), read_decoding(block)
    options = _options(finetuning=read_run_config(config) if config.get("task") else None)

    def choose(_: str, run_config: RunConfig) -> dict[str, Evaluator]:
        return {name: with_decoding(one, decoding) for name, one in _evaluators(run_config, configured).items()}

    jobs = plan_evaluations(directories, choose, options)[_INDEX.value :: _OF.value]
    if _OUT.value and sum(len(job.prepared) for job in jobs) != 1:
        raise ConfigError("--out is for a single evaluation; omit it, and each is written to its evaluation/NAME.json")
    _exit_on_errors(run_evaluations(jobs, options, _print))


def _score_study(workdir: Path) -> None:
    """Score this process's share of a study's finished runs, then rewrite the study's tables."""
    command.reject([_OUT, _SPLIT, _STEP, _TOKENIZER], "is for a run (--workdir), not for a study")
    study = read_recorded_study(workdir)
    configured = read_study(read_config(_CONFIG)) if _CONFIG.value else study
    evaluators = StudyEvaluators(configured, _EVALUATORS.value)
    share = {str(workdir / run.directory): run for run in finished_runs(study, workdir)[_INDEX.value :: _OF.value]}

    def choose(directory: str, _: RunConfig) -> dict[str, Evaluator]:
        return {name: _with_overrides(one) for name, one in evaluators.for_run(share[directory]).items()}

    options = _options()
    jobs = plan_evaluations(list(share), choose, options)
    if not any(job.prepared for job in jobs):
        raise ConfigError(f"{workdir}: no run has an evaluator; name some, e.g. --evaluators=few_shot_1,pretraining")
    errors = run_evaluations(jobs, options)
    with lock_directory(workdir, wait=True):
        run_on_primary(lambda: write_tables(study, workdir))
    count = sum(len(job.prepared) for job in jobs)
    scored, programs = count_noun(len(jobs), "run"), count_noun(compiled_programs(), "program")
    summary = f"{count_noun(count, 'evaluation')} of {scored}, {programs} compiled"
    print(f"{summary}: {workdir / POINTS}", flush=True)
    _exit_on_errors(errors)


def _exit_on_errors(errors: list[Exception]) -> None:
    if errors:
        print(f"error: {count_noun(len(errors), 'run')} could not be scored: {errors[0]}", file=sys.stderr)
        sys.exit(EXIT_FAILED)


def _options(finetuning: RunConfig | None = None) -> EvaluationOptions:
    return EvaluationOptions(
        step=_STEP.value,
        sharding=ShardingConfig(_FSDP.value, _TENSOR.value),
        model_changes={"attention": _ATTENTION.value} if _ATTENTION.value else {},
        finetuning=finetuning,
        tokenizer=_TOKENIZER.value,
        out=location(_OUT.value) if _OUT.value else None,
        overwrite=_AGAIN.value,
        metrics=metrics_from_flag(_METRICS.value),
    )


def _evaluators(run_config: RunConfig, configured: Mapping[str, Evaluator]) -> dict[str, Evaluator]:
    """Return the evaluators of --evaluators, or all of --config, or one for the run's own splits."""
    known = configured or run_config.evaluation.named_evaluators
    if _EVALUATORS.value is None and not configured:
        splits = None if _SPLIT.value is None else tuple(_SPLIT.value)
        check_file_names(splits or (), "--split")
        chosen: dict[str, Evaluator] = {
            joint_name(splits or [TEST_EVALUATOR]): TaskEvaluator(splits=splits, examples=None, generate=None)
        }
    elif _SPLIT.value is not None:
        raise ConfigError("--split is for the run's own splits; evaluators define theirs: omit --split or --evaluators")
    else:
        chosen = select_evaluators(known if _EVALUATORS.value is None else _EVALUATORS.value, known, "--evaluators")
    return {name: _with_overrides(one) for name, one in chosen.items()}


def _with_overrides(evaluator: Evaluator) -> Evaluator:
    return with_overrides(evaluator, _EXAMPLES.value, _GENERATE.value, _UNTUNED.value)


def _print(job: EvaluationJob, prepared: PreparedEvaluation, record: Record) -> None:
    def summary(scores: Mapping[str, Any]) -> dict[str, Any]:
        metrics = {name: entry["score"] for name, entry in scores["metrics"].items()}
        counts = {name: scores[name] for name in ("generated", "at_limit") if name in scores}
        return {**score_values({**scores, "metrics": {}}), **counts, "metrics": metrics}

    compared = {"untuned": record.get("untuned"), **record.get("baselines", {})}
    others = {name: summary(scores) for name, scores in compared.items() if scores}
    print(format_json({"run": job.name, "evaluator": prepared.name, **summary(record), **others}), flush=True)


if __name__ == "__main__":
    command.run(main, accelerator=True)
