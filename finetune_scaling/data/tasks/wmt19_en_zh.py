"""WMT19 English to Chinese: 25M training pairs, newsdev2017 for development, newstest2020-2022 for testing."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource, TfdsSource
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import TRANSLATION


def _file(name: str) -> tuple[Part, ...]:
    return (Part(FilesSource(f"newstest/{name}.en-zh.tsv", columns=("en", "zh")), "en", "zh", "en", "zh"),)


TASK = Task(
    name="wmt19_en_zh",
    kind="translation",
    template=TRANSLATION,
    max_source_tokens=256,
    max_target_tokens=256,
    train=(Part(TfdsSource("wmt19_translate/zh-en", "train"), "en", "zh", "en", "zh"),),
    dev=_file("wmt17dev"),
    test={f"newstest20{year}": _file(f"wmt{year}") for year in ("20", "21", "22")},
    documentation="""
Training: `python -m finetune_scaling.prepare corpus --task=wmt19_en_zh` lets TFDS prepare wmt19_translate/zh-en as
array_record. TFDS has no test split for it, and the part of its training data that comes from the UN corpus and from
CWMT has to be fetched by hand where their sites ask for it; TFDS says which file it wants and where to put it.
Development and testing, in the folder that the config's task.sources.data_dir names (default: where you are):
    mkdir -p newstest
    sacrebleu -t wmt17/dev -l en-zh --echo src ref > newstest/wmt17dev.en-zh.tsv
    sacrebleu -t wmtYY -l en-zh --echo src ref > newstest/wmtYY.en-zh.tsv            for YY = 20, 21, 22
""",
)
