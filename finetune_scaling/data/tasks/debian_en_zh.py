"""English to Chinese package descriptions: real text that every Debian or Ubuntu machine has."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import DebianSource, DebianSplit
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import TRANSLATION


def _pairs(split: DebianSplit) -> tuple[Part, ...]:
    return (Part(DebianSource("translation/en-zh", split), "en", "zh", "en", "zh"),)


TASK = Task(
    name="debian_en_zh",
    kind="translation",
    template=TRANSLATION,
    max_source_tokens=256,
    max_target_tokens=256,
    train=_pairs("train"),
    dev=_pairs("validation"),
    test={"test": _pairs("test")},
    documentation="`python -m finetune_scaling.prepare corpus --task=debian_en_zh` on a machine with apt.",
)
