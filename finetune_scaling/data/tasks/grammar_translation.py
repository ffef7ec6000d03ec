"""Translation from artificial language A into B: no files, and the entropy of a target given its source is known."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import GrammarSource, GrammarSplit
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import TRANSLATION


def _pairs(split: GrammarSplit, size: int) -> tuple[Part, ...]:
    return (Part(GrammarSource("translation", split, size, ("A", "B")), "source", "target", "A", "B"),)


TASK = Task(
    name="grammar_translation",
    kind="translation",
    template=TRANSLATION,
    max_source_tokens=256,
    max_target_tokens=256,
    train=_pairs("train", 100_000),
    dev=_pairs("dev", 500),
    test={"test": _pairs("test", 500)},
    documentation="Made on the fly; the fields of task.sources.grammar in the config set the seed and the difficulty.",
)
