"""The named tasks, each a mapping of the fields of `Task` as a config would have them.

To add a task, add an entry to TASKS: its kind and its splits. Template and token limits default to those of the kind
(`KIND_DEFAULTS` in task.py). docs/data.md says how to get the files.
"""

from collections.abc import Callable
from typing import Any

Fields = dict[str, Any]


def example_fields(languages: tuple[str, str], fields: tuple[str, str]) -> Fields:
    """Return the fields of a Part that say which field of a record is the source and which the target."""
    codes = {"source_language": languages[0], "target_language": languages[1]}
    return {"source_field": fields[0], "target_field": fields[1], **codes}


def files(path: str, **fields: Any) -> Fields:
    """Return a source of JSONL or TSV."""
    return {"kind": "files", "path": path, **fields}


def tfds(name: str, split: str) -> Fields:
    """Return a source of a TFDS dataset."""
    return {"kind": "tfds", "name": name, "split": split}


def _translation(source: Fields, source_language: str, target_language: str) -> list[Fields]:
    """Return the parts of a split whose records have the language codes as field names."""
    pair = (source_language, target_language)
    return [{"source": source, **example_fields(pair, pair)}]


def _splits(parts: Callable[[str], list[Fields]], dev: str = "validation") -> Fields:
    return {"train": parts("train"), "dev": parts(dev), "test": {"test": parts("test")}}


def _newstest(name: str, target_language: str) -> list[Fields]:
    source = files(f"newstest/{name}.en-{target_language}.tsv", columns=("en", target_language))
    return _translation(source, "en", target_language)


def _debian_translation(target_language: str) -> Callable[[str], list[Fields]]:
    def parts(split: str) -> list[Fields]:
        source = {"kind": "debian", "dataset": f"translation/en-{target_language}", "split": split}
        return _translation(source, "en", target_language)

    return parts


def _debian_summarization(split: str) -> list[Fields]:
    def part(language: str) -> Fields:
        source = {"kind": "debian", "dataset": f"summarization/{language}", "split": split}
        return {"source": source, **example_fields((language, language), ("document", "summary"))}

    return [part(language) for language in ("de", "en", "zh")]


def _grammar(dataset: str, languages: tuple[str, ...]) -> Callable[[str], list[Fields]]:
    def parts(split: str) -> list[Fields]:
        size = 100_000 if split == "train" else 500
        source = {"kind": "grammar", "dataset": dataset, "split": split, "size": size, "languages": languages}
        return [{"source": source, **example_fields((languages[0], languages[-1]), ("source", "target"))}]

    return parts


def _mlsum(split: str) -> list[Fields]:
    mlsum = [
        {"source": files(f"mlsum/{code}.{split}.jsonl.gz"), **example_fields((code, code), ("text", "summary"))}
        for code in ("de", "es", "fr")
    ]
    english = {"source": tfds("cnn_dailymail", split), **example_fields(("en", "en"), ("article", "highlights"))}
    return [*mlsum, english]


_FLORES_DIRECTIONS = [
    *((source, "de") for source in ("fr", "zh", "hi", "tr", "pl")),
    *((source, "zh") for source in ("fr", "de", "hi", "tr", "pl")),
]
_YEARS = ("20", "21", "22")

TASKS: dict[str, Fields] = {
    # 4.5M training pairs
    "wmt14_en_de": {
        "kind": "translation",
        "train": _translation(tfds("wmt14_translate/de-en", "train"), "en", "de"),
        "dev": _translation(tfds("wmt14_translate/de-en", "validation"), "en", "de"),  # newstest2013
        "test": {f"newstest20{year}": _newstest(f"wmt{year}", "de") for year in _YEARS},
    },
    # 25M training pairs
    "wmt19_en_zh": {
        "kind": "translation",
        "train": _translation(tfds("wmt19_translate/zh-en", "train"), "en", "zh"),
        "dev": _newstest("wmt17dev", "zh"),  # newsdev2017
        "test": {f"newstest20{year}": _newstest(f"wmt{year}", "zh") for year in _YEARS},
    },
    # German, Spanish and French of MLSUM with CNN/DailyMail for English, about 1.1M articles; official splits
    "mlsum": {
        "kind": "summarization",
        "template": {"input": "Summarize the following article in {target_language}:\n{source}\nSummary: "},
        **_splits(_mlsum),
    },
    # zero-shot directions only: into German and Chinese from languages that no model is finetuned on
    "flores200": {
        "kind": "translation",
        "test": {
            f"{source}-{target}": _translation(files("flores200/devtest.jsonl"), source, target)
            for source, target in _FLORES_DIRECTIONS
        },
    },
    # artificial languages, generated when read; the entropy of a target given its source is known
    "grammar_translation": {"kind": "translation", **_splits(_grammar("translation", ("A", "B")), dev="dev")},
    "grammar_summarization": {"kind": "summarization", **_splits(_grammar("summarization", ("A",)), dev="dev")},
    # package descriptions of every Debian or Ubuntu machine
    "debian_en_de": {"kind": "translation", **_splits(_debian_translation("de"))},
    "debian_en_zh": {"kind": "translation", **_splits(_debian_translation("zh"))},
    "debian_summarization": {"kind": "summarization", **_splits(_debian_summarization)},
}
