"""WMT14 English to German: 4.5M training pairs, newstest2013 for development, newstest2020-2022 for testing."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource, TfdsSource
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import TRANSLATION


def _pairs(split: str) -> tuple[Part, ...]:
    return (Part(TfdsSource("wmt14_translate/de-en", split), "en", "de", "en", "de"),)


def _newstest(year: str) -> tuple[Part, ...]:
    return (Part(FilesSource(f"newstest/wmt{year}.en-de.tsv", columns=("en", "de")), "en", "de", "en", "de"),)


TASK = Task(
    name="wmt14_en_de",
    kind="translation",
    template=TRANSLATION,
    max_source_tokens=256,
    max_target_tokens=256,
    train=_pairs("train"),
    dev=_pairs("validation"),  # newstest2013
    test={f"newstest20{year}": _newstest(year) for year in ("20", "21", "22")},
    documentation="""
Training and development: `python -m finetune_scaling.prepare corpus --task=wmt14_en_de` lets TFDS download
wmt14_translate/de-en from statmt.org (about 1.6 GB) and prepares it as array_record.
Testing, once per year YY = 20, 21, 22, in the folder of task.sources.data_dir (default: where you are):
    mkdir -p newstest
    sacrebleu -t wmtYY -l en-de --echo src ref > newstest/wmtYY.en-de.tsv
""",
)
