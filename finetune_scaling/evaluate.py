"""Scores a run, or plain files.

    python -m finetune_scaling.evaluate --workdir=RUN --out=FILE.json [--split=test --step=N --generate=200]
    python -m finetune_scaling.evaluate --hypotheses=FILE --references=FILE[,FILE] --target-language=de --out=FILE.json
    python -m finetune_scaling.evaluate --rows=RUN/evaluation/test.jsonl --target-language=de --out=FILE.json

Files hold one segment a line. A run's hypotheses and losses are written beside the scores, one JSON object an example.
"""

import json
from typing import Any

from absl import flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.metric import Corpus
from finetune_scaling.evaluation.metric_names import chosen_metrics
from finetune_scaling.evaluation.rows import read_rows, written_corpus
from finetune_scaling.evaluation.scoring import EVALUATION, pooled, score_split, write_rows
from finetune_scaling.evaluation.text_metrics import read_corpus, score_corpus
from finetune_scaling.files import Location, location, write_json_atomically
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.training.inputs import prepared_task, test_examples
from finetune_scaling.training.tuned import load_run

_WORKDIR = flags.DEFINE_string("workdir", "", "Directory of the finished run to score.")
_OUT = flags.DEFINE_string("out", "", "JSON file for the scores; default for a run: its evaluation/SPLIT.json.")
_SPLIT = flags.DEFINE_list("split", None, "Splits to score: dev or test sets; default: all test sets of the task.")
_STEP = flags.DEFINE_integer("step", None, "Checkpoint to score; default: the best one.")
_EXAMPLES = flags.DEFINE_integer("examples", None, "Examples of each split to score; default: all.", lower_bound=1)
_GENERATE = flags.DEFINE_integer("generate", None, "Examples to decode; default: all that are scored.", lower_bound=0)
_METRICS = flags.DEFINE_list(
    "metrics", None, "Metrics by name, or FILE.py[:ARGUMENT] of a learned one; default: BLEU, chrF, chrF++, TER, ROUGE."
)
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that the parameters are divided over while scoring; -1: all.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that heads, feed-forward and vocabulary are divided over.")
_ATTENTION = flags.DEFINE_string("attention", "", "Form of attention, where the run's own needs another device: plain.")
_HYPOTHESES = flags.DEFINE_string("hypotheses", "", "File of hypotheses, one segment a line.")
_ROWS = flags.DEFINE_string("rows", "", "In place of hypotheses: what a run wrote, its evaluation/SPLIT.jsonl.")
_REFERENCES = flags.DEFINE_list("references", None, "Files of references, one segment a line.")
_SOURCES = flags.DEFINE_string("sources", None, "File of sources, one segment a line.")
_LANGUAGE = flags.DEFINE_string("target_language", "", "Language code of the hypotheses: de, zh, ...")


def main() -> None:
    """Scores what the flags name and prints the main figures as one JSON line."""
    if sum(bool(flag.value) for flag in (_WORKDIR, _HYPOTHESES, _ROWS)) != 1:
        raise ConfigError(
            "give --workdir to score a run, or --hypotheses and --references to score files, or --rows of a run"
        )
    scores = _score_run(location(_WORKDIR.value)) if _WORKDIR.value else _score_texts()
    metrics = {name: entry["score"] if isinstance(entry, dict) else entry for name, entry in scores["metrics"].items()}
    print(json.dumps({**{name: scores[name] for name in ("loss", "entropy") if name in scores}, "metrics": metrics}))


def _score_texts() -> dict[str, Any]:
    for name in (_SPLIT.name, _STEP.name, _EXAMPLES.name, _GENERATE.name, _FSDP.name, _TENSOR.name, _ATTENTION.name):
        if flags.FLAGS[name].present:
            raise ConfigError(f"--{name} is for a run (--workdir); files are scored as they are, so leave it out")
    for flag in (_LANGUAGE, _OUT):
        if not flag.value:
            raise ConfigError(f"--{flag.name.replace('_', '-')} is missing; scoring texts needs it")
    scores = {"metrics": score_corpus(_read_corpus(), chosen_metrics(_METRICS.value))}
    write_json_atomically(_OUT.value, scores)
    return scores


def _read_corpus() -> Corpus:
    """The files' segments, or those that a run wrote."""
    if _HYPOTHESES.value:
        return read_corpus(_HYPOTHESES.value, _REFERENCES.value or [], _SOURCES.value, _LANGUAGE.value)
    for flag in (_REFERENCES, _SOURCES):
        if flag.value:
            raise ConfigError(f"--{flag.name} is for files (--hypotheses); rows have their own, so leave it out")
    corpus = written_corpus(_ROWS.value, read_rows(_ROWS.value), _LANGUAGE.value)
    if corpus is None:
        raise DataError(f"{_ROWS.value}: no row has a hypothesis; score the run with --generate=N")
    return corpus


def _score_run(run: Location) -> dict[str, Any]:
    metrics = chosen_metrics(_METRICS.value)
    changes = {"attention": _ATTENTION.value} if _ATTENTION.value else {}
    model, experiment = load_run(run, _STEP.value, ShardingConfig(_FSDP.value, _TENSOR.value), changes)
    if experiment.pretrains:
        raise ConfigError(f"{run}: a pretraining run has no task; finetune it, or read its dev losses in metrics.jsonl")
    task, form = prepared_task(experiment)
    splits = _SPLIT.value or list(task.test)
    if not splits:
        raise DataError(f"task {task.name} has no test set; name a split, e.g. --split=dev")
    out = location(_OUT.value) if _OUT.value else run / EVALUATION / f"{'+'.join(splits)}.json"
    scores = {}
    for split in splits:
        with model.placement.in_use():
            scores[split], rows = score_split(
                model,
                task,
                form,
                test_examples(experiment, split, _EXAMPLES.value),
                batch_size=experiment.evaluation.batch_size,
                generate_examples=_GENERATE.value,
                decoding=experiment.evaluation.decoding,
                metrics=metrics,
            )
        write_rows(out.with_name(f"{out.stem}.{split}.jsonl"), rows)
    result = {**pooled(scores), "splits": scores}
    if len(splits) == 1:
        result["metrics"] = scores[splits[0]]["metrics"]
    write_json_atomically(out, result)
    return result


if __name__ == "__main__":
    command.run(main)
