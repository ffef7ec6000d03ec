"""Summaries of documents in artificial language A: no files, and the entropy of a summary given its text is known."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import GrammarSource, GrammarSplit
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import SUMMARIZATION


def _documents(split: GrammarSplit, size: int) -> tuple[Part, ...]:
    return (Part(GrammarSource("summarization", split, size, ("A",)), "source", "target", "A", "A"),)


TASK = Task(
    name="grammar_summarization",
    kind="summarization",
    template=SUMMARIZATION,
    max_source_tokens=512,
    max_target_tokens=256,
    train=_documents("train", 100_000),
    dev=_documents("dev", 500),
    test={"test": _documents("test", 500)},
    documentation="Made on the fly; the fields of task.sources.grammar in the config set the seed and the difficulty.",
)
