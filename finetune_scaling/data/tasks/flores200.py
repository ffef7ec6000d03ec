"""FLORES-200 devtest, for zero-shot directions only: into German and Chinese from languages never trained on."""

from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import TRANSLATION

_SOURCES = {"de": ("fr", "zh", "hi", "tr", "pl"), "zh": ("fr", "de", "hi", "tr", "pl")}


def _sentences(source: str, target: str) -> tuple[Part, ...]:
    return (Part(FilesSource("flores200/devtest.jsonl"), source, target, source, target),)


TASK = Task(
    name="flores200",
    kind="translation",
    template=TRANSLATION,
    max_source_tokens=256,
    max_target_tokens=256,
    test={
        f"{source}-{target}": _sentences(source, target) for target, sources in _SOURCES.items() for source in sources
    },
    documentation="""
Download flores200_dataset.tar.gz (NLLB team, CC BY-SA 4.0, linked from the README of facebookresearch/flores) and write
the seven languages side by side, in the folder that the config's task.sources.data_dir names (default: where you are):
    tar xf flores200_dataset.tar.gz && mkdir -p flores200 && cd flores200_dataset/devtest
    python - > ../../flores200/devtest.jsonl <<'END'
    import json
    names = {"de": "deu_Latn", "zh": "zho_Hans", "fr": "fra_Latn", "hi": "hin_Deva", "tr": "tur_Latn", "pl": "pol_Latn"}
    names["en"] = "eng_Latn"
    columns = [open(f"{name}.devtest", encoding="utf-8").read().splitlines() for name in names.values()]
    for row in zip(*columns, strict=True):
        print(json.dumps(dict(zip(names, row)), ensure_ascii=False))
    END
""",
)
