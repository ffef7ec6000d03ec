"""Prepare a tokenizer, the data of a task, or pretraining text that is larger than memory.

    python -m finetune_scaling.prepare tokenizer --config=FILE --out=DIR [--config.tokenizer.vocab_size=8000]
    python -m finetune_scaling.prepare corpus --task=NAME [--data_dir=DIR]
    python -m finetune_scaling.prepare corpus --config=FILE
    python -m finetune_scaling.prepare shards --config=FILE --out=DIR [--shards=64] [--drop_duplicates]
        [--min_tokens=8] [--max_tokens=100000] [--beam="--direct_num_workers=4 --direct_running_mode=multi_processing"]

A tokenizer's config file has the groups `tokenizer` (fields of TokenizerConfig) and `corpus` (as in pretraining; its
training part is used). `corpus --config` prepares every dataset of the config of a run or study. `shards` takes the
config of a pretraining run and encodes its text as that run would; the run then reads it with
--config.corpus.prepared=DIR.
"""

import shlex
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import config_flag, integer_flag, path_flag, read_config, required
from finetune_scaling.configuration import build, choose
from finetune_scaling.data.corpus import document_counts
from finetune_scaling.data.objectives import max_text_tokens
from finetune_scaling.data.preparation.directory import prepare_shards
from finetune_scaling.data.preparation.pipeline import import_beam
from finetune_scaling.data.preparation.settings import Filters, Preparation
from finetune_scaling.data.sources import SOURCE_KINDS, prepare_source, source_from_config
from finetune_scaling.data.task import load_task, prepare_task
from finetune_scaling.data.tasks import TASKS
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import load_sentencepiece_tokenizer
from finetune_scaling.data.tokenizers.training import TokenizerPreparation, prepare_tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.files import location
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.runs.run_directory import lock_directory


def define_flags() -> None:
    """Define the flags of the command; not on import, so that other modules can import this one."""
    config_flag("config", "config file; tokenizer: with the groups tokenizer and corpus; shards: of a pretraining run")
    path_flag("out", "tokenizer, shards: output directory", default=None)
    flags.DEFINE_string("task", None, "corpus: name of the task to download and prepare")
    path_flag("data_dir", "corpus: data directory; default: the source's", default=None)
    integer_flag("shards", 16, "shards: number of files; one worker writes a file", lower_bound=1)
    flags.DEFINE_bool("drop_duplicates", False, "shards: keep only the first of documents with equal text")
    integer_flag("min_tokens", 0, "shards: drop documents with fewer tokens; 0: no limit", lower_bound=0)
    integer_flag("max_tokens", 0, "shards: drop documents with more tokens; 0: no limit", lower_bound=0)
    flags.DEFINE_string("beam", "", "shards: flags of Apache Beam, in one string: its runner, workers, project, ...")


def main(subcommand: str) -> None:
    """Run the subcommand: tokenizer, corpus or shards."""
    choose(_COMMANDS, subcommand, "prepare")()


def _run_tokenizer() -> None:
    config, out = read_config(flags.FLAGS["config"]), required(flags.FLAGS["out"])
    tokenizer = prepare_tokenizer(build(TokenizerPreparation, config, "config"), out)
    print(f"{out}: tokenizer of {tokenizer.vocab_size} ids, sha256 {tokenizer.digest}")


def prepare_config(config: Any) -> Iterator[dict[str, Any]]:
    """Prepare all sources and named tasks anywhere in a config; yield the contents of each for the log."""
    if isinstance(config, Mapping):
        if config.get("kind") in SOURCE_KINDS:
            yield prepare_source(source_from_config(config, "source"))
            return
        if config.get("name") in TASKS:
            yield from prepare_task(load_task(config))
            return
        config = list(config.values())
    if isinstance(config, list):
        for entry in config:
            yield from prepare_config(entry)


def _run_corpus() -> None:
    reports: Iterable[dict[str, Any]]
    if flags.FLAGS["config"].value is not None:
        reports = prepare_config(read_config(flags.FLAGS["config"]))
    else:
        task = {"name": required(flags.FLAGS["task"]), "sources": {"data_dir": flags.FLAGS.data_dir}}
        reports = prepare_task(load_task(task))
    for line in dict.fromkeys(map(_report_line, reports)):
        print(line, flush=True)


def shards_of_run(run_config: RunConfig, shards: int, filters: Filters) -> Preparation:
    """Return the preparation of the text of a pretraining run, encoded and split as the run would.

    Raises ConfigError if the run does not pretrain, DataError if its text or tokenizer cannot be read.
    """
    if run_config.corpus is None:
        raise ConfigError("prepare shards: this config has no corpus; give the config of a pretraining run")
    parts = run_config.corpus.train
    return Preparation(
        parts=parts,
        counts=tuple(document_counts(parts, "corpus.train")),
        tokenizer=load_sentencepiece_tokenizer(run_config.tokenizer),
        chunk_tokens=max_text_tokens(run_config.sequence.length, run_config.objective),
        shards=shards,
        filters=filters,
    )


def _run_shards() -> None:
    import_beam()  # before any text is read
    values = flags.FLAGS
    config, out = read_config(values["config"]), location(required(values["out"]))
    filters = Filters(values.drop_duplicates, values.min_tokens, values.max_tokens)
    with lock_directory(out):
        preparation = shards_of_run(read_run_config(config), values.shards, filters)
        statistics = prepare_shards(preparation, out, shlex.split(values.beam))
    counts = {name: value for name, value in statistics.items() if isinstance(value, int)}
    print(f"{out}: {preparation.shards} shards; {_report_line(counts)}")


def _report_line(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in report.items())


_COMMANDS = {"tokenizer": _run_tokenizer, "corpus": _run_corpus, "shards": _run_shards}


if __name__ == "__main__":
    define_flags()
    command.run(main, subcommands=_COMMANDS)
