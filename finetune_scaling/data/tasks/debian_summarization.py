"""One-line synopses of long package descriptions, in German, English and Chinese, by the share of each language."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import DebianSource, DebianSplit
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import SUMMARIZATION


def _descriptions(split: DebianSplit) -> tuple[Part, ...]:
    return (
        Part(DebianSource("summarization/de", split), "document", "summary", "de", "de"),
        Part(DebianSource("summarization/en", split), "document", "summary", "en", "en"),
        Part(DebianSource("summarization/zh", split), "document", "summary", "zh", "zh"),
    )


TASK = Task(
    name="debian_summarization",
    kind="summarization",
    template=SUMMARIZATION,
    max_source_tokens=512,
    max_target_tokens=256,
    train=_descriptions("train"),
    dev=_descriptions("validation"),
    test={"test": _descriptions("test")},
    documentation="`python -m finetune_scaling.prepare corpus --task=debian_summarization` on a machine with apt.",
)
