"""Prepares what training needs: a tokenizer, or the data of a task.

    python -m finetune_scaling.prepare tokenizer --config=FILE --out=DIR [--config.tokenizer.vocab_size=8000]
    python -m finetune_scaling.prepare corpus --task=NAME [--data_dir=DIR]
    python -m finetune_scaling.prepare corpus --config=FILE

A tokenizer's config file has a group `tokenizer` (fields of TokenizerConfig) and a group `corpus` as pretraining has
it, of which the training text is learned from. The last form prepares every dataset that a config names, of a run or of
a whole study.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags
from ml_collections import config_flags

from finetune_scaling import command
from finetune_scaling.configuration import build, choose
from finetune_scaling.data.corpus import CorpusConfig, Texts
from finetune_scaling.data.sources import SOURCE_KINDS, prepare_source, source_from_config
from finetune_scaling.data.task import load_task, prepare_task, task_names
from finetune_scaling.data.tokenizer import Tokenizer, TokenizerConfig, train_tokenizer
from finetune_scaling.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class TokenizerPreparation:
    """A tokenizer and the text that it is learned from (the training part of `corpus`)."""

    tokenizer: TokenizerConfig
    corpus: CorpusConfig


def prepare_tokenizer(preparation: TokenizerPreparation, out: str | Path) -> Tokenizer:
    """Trains and saves a tokenizer into `out`; raises DataError or ConfigError where text and settings do not fit."""
    texts = Texts(preparation.corpus.train, "corpus.train")
    return train_tokenizer(texts, preparation.tokenizer, out)


def define_flags() -> None:
    """Declares the command's flags; not on import, so that other commands may call prepare_tokenizer."""
    config_flags.DEFINE_config_file("config", None, "tokenizer: config file with the groups tokenizer and corpus")
    flags.DEFINE_string("out", None, "tokenizer: directory that the tokenizer is written into")
    flags.DEFINE_string("task", None, "corpus: name of the task whose data is downloaded and prepared")
    flags.DEFINE_string("data_dir", None, "corpus: where the data goes; default: the source's own place")


def main(what: str) -> None:
    """Runs the subcommand: tokenizer or corpus."""
    choose(_COMMANDS, what, "prepare")()


def _run_tokenizer() -> None:
    config, out = command.read_config(flags.FLAGS["config"]), _needed("out", "tokenizer")
    tokenizer = prepare_tokenizer(build(TokenizerPreparation, config, "config"), out)
    print(f"{out}: tokenizer of {tokenizer.vocab_size} ids, sha256 {tokenizer.digest}")


def prepare_config(config: Any) -> Iterator[dict[str, Any]]:
    """Prepares every source and every named task anywhere in a config; yields what each holds, for the log."""
    if isinstance(config, Mapping):
        if config.get("kind") in SOURCE_KINDS:
            yield prepare_source(source_from_config(config, "source"))
            return
        if config.get("name") in task_names():
            yield from prepare_task(load_task(config))
            return
        config = list(config.values())
    if isinstance(config, list):
        for entry in config:
            yield from prepare_config(entry)


def _run_corpus() -> None:
    if flags.FLAGS["config"].value is not None:
        reports = prepare_config(command.read_config(flags.FLAGS["config"]))
        for line in dict.fromkeys(_report_line(report) for report in reports):
            print(line, flush=True)
        return
    spec: dict[str, Any] = {"name": _needed("task", "corpus")}
    if flags.FLAGS.data_dir is not None:
        spec["sources"] = {"data_dir": flags.FLAGS.data_dir}
    for report in prepare_task(load_task(spec)):
        print(_report_line(report))


def _report_line(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}: {value}" for name, value in report.items())


def _needed(flag: str, command: str) -> Any:
    value = flags.FLAGS[flag].value
    if value is None:
        raise ConfigError(f"prepare {command} needs --{flag}; --help lists the flags")
    return value


_COMMANDS = {"tokenizer": _run_tokenizer, "corpus": _run_corpus}


if __name__ == "__main__":
    define_flags()
    command.run(main, subcommands=_COMMANDS)
