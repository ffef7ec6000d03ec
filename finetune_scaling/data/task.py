"""Tasks: which text is learned from which, in which splits and languages, as data.

A named task is one short file in data/tasks. A task may as well stand wholly in a config:

    task = jsonl_task(
        name="news", kind="translation", languages=("en", "de"), fields=("en", "de"),
        train="mt_news/en-de.train.jsonl.xz",
        dev="mt_news/en-de.valid.jsonl.xz",
        test={"newstest2020": "mt_news/en-de.test.jsonl.xz", "flores": "mt_news/en-de.flores.jsonl.xz"},
    )
    task = jsonl_task(
        name="synopses", kind="summarization", languages=("de", "de"), fields=("document", "summary"),
        train="sum_ddtp/de.train.jsonl.xz", dev="sum_ddtp/de.valid.jsonl.xz",
        test={"test": "sum_ddtp/de.test.jsonl.xz"},
    )

and a named one may be changed there: {"name": "wmt14_en_de", "max_source_tokens": 128, "sources": {"data_dir": "gs://b/c"}}.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from finetune_scaling import configuration
from finetune_scaling.data import tasks, templates
from finetune_scaling.data.examples import Examples, Part, PartExamples
from finetune_scaling.data.sources import prepare_source, source_from_config
from finetune_scaling.errors import ConfigError, DataError


@dataclass(frozen=True)
class Task:
    """A finetuning task as data.

    train, dev and every test set are tuples of parts, one per language direction; their examples are concatenated.
    `documentation` is the route to the files for somebody who has none of them.
    Raises ConfigError where a language code is unknown, or a direction does not fit the kind of task.
    """

    name: str
    kind: Literal["translation", "summarization"]
    template: templates.Template
    max_source_tokens: int
    max_target_tokens: int
    train: tuple[Part, ...] = ()
    dev: tuple[Part, ...] = ()
    test: Mapping[str, tuple[Part, ...]] = field(default_factory=dict)
    documentation: str = ""

    def __post_init__(self) -> None:
        for split, parts in self.splits().items():
            for index, part in enumerate(parts):
                _check_languages(part, self.kind, f"task {self.name}: {split}[{index}]")
        for name in ("max_source_tokens", "max_target_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task {self.name}: {name} must be at least 1")

    def splits(self) -> dict[str, tuple[Part, ...]]:
        """The parts of every split by its name: train, dev, and the names of the test sets."""
        named = {"train": self.train, "dev": self.dev}
        taken = named.keys() & self.test.keys()
        if taken:
            raise ConfigError(f"task {self.name}: a test set may not be called {min(taken)!r}; rename it")
        return {name: parts for name, parts in {**named, **self.test}.items() if parts}

    def examples(self, split: str) -> Examples:
        """Opens a split ("train", "dev" or a test set): a sequence of example dicts, mapped when they are asked for.

        Each has source, target, source_language, target_language, and target_nll where the source knows it. All
        sources of the split are opened and checked at once. Raises DataError on an unknown split or faulty data.
        """
        splits = self.splits()
        if split not in splits:
            raise DataError(f"task {self.name} has no split {split!r}; it has {', '.join(splits)}")
        return Examples([PartExamples(part) for part in splits[split]])


def load_task(spec: str | Mapping[str, Any]) -> Task:
    """The task of a name, of a named task with changes, or of a mapping that says all of it.

    Changes replace fields; groups of fields are merged, lists replaced, and None changes nothing. `sources` holds
    fields that are set on every source of the task that has such a field:
    {"name": "grammar_translation", "sources": {"grammar": {"genders": 3}}}.
    Raises ConfigError that names the field, with the nearest known name.
    """
    mapping = {"name": spec} if isinstance(spec, str) else configuration.without_unset(spec)
    name = mapping.get("name", "")
    registry = task_names()
    if name in registry:
        module = importlib.import_module(f"{tasks.__name__}.{name}")
        mapping = _merge(configuration.plain(module.TASK), mapping, f"task {name}")
    elif "kind" not in mapping:
        raise ConfigError(f"task.name = {name!r} is unknown{configuration.suggestion(name, registry)}")
    return _build(mapping, f"task {name}")


def task_names() -> list[str]:
    """The named tasks: the files of data/tasks."""
    return sorted(module.name for module in pkgutil.iter_modules(tasks.__path__))


def jsonl_task(
    name: str,
    kind: str,
    languages: tuple[str, str],
    fields: tuple[str, str],
    train: str = "",
    dev: str = "",
    test: Mapping[str, str] | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The mapping of a one-direction task over JSONL or TSV files, for a config.

    languages, fields: (source, target). train, dev, test: paths. settings: any further field of Task.
    """

    def parts(path: str) -> list[dict[str, Any]]:
        pairs = {"source_field": fields[0], "target_field": fields[1]}
        codes = {"source_language": languages[0], "target_language": languages[1]}
        return [{"source": {"kind": "files", "path": path}, **pairs, **codes}] if path else []

    tests = {key: parts(path) for key, path in (test or {}).items()}
    return {"name": name, "kind": kind, "train": parts(train), "dev": parts(dev), "test": tests, **settings}


def prepare_task(task: Task) -> list[dict[str, Any]]:
    """Downloads and prepares every source of a task once; returns what each of them holds, for the log."""
    reports: list[dict[str, Any]] = []
    for source in {part.source: None for parts in task.splits().values() for part in parts}:
        report = prepare_source(source)
        if report not in reports:  # splits of one dataset are prepared together
            reports.append(report)
    return reports


def _check_languages(part: Part, kind: str, where: str) -> None:
    templates.language_name(part.source_language, f"{where}.source_language")
    templates.language_name(part.target_language, f"{where}.target_language")
    same = part.source_language == part.target_language
    if kind == "translation" and same:
        raise ConfigError(f"{where} translates {part.source_language!r} into itself; change one of its languages")
    if kind == "summarization" and not same:
        raise ConfigError(f"{where}: a summary is in the language of its document, not {part.direction}")
    if part.source_field == part.target_field:
        raise ConfigError(f"{where}: source_field and target_field are both {part.source_field!r}; change one")


def _build(mapping: Mapping[str, Any], where: str) -> Task:
    """A Task from its mapping, with its kind's limits and template where it leaves them out."""
    mapping = dict(mapping)
    on_every_source = mapping.pop("sources", {})
    kind = configuration.choose(_DEFAULTS, mapping.get("kind", ""), f"{where}: kind")
    mapping = {**kind, **mapping}
    unused = set(on_every_source)
    for split in ("train", "dev"):
        mapping[split] = _build_parts(mapping.get(split, ()), f"{where}: {split}", on_every_source, unused)
    tests = mapping.get("test", {})
    mapping["test"] = {
        name: _build_parts(parts, f"{where}: test.{name}", on_every_source, unused) for name, parts in tests.items()
    }
    if unused:
        raise ConfigError(f"{where}: sources.{min(unused)} is not a field of any source of this task; remove it")
    return configuration.build(Task, mapping, where)


def _build_parts(parts: Any, where: str, on_every_source: Mapping[str, Any], unused: set[str]) -> tuple[Part, ...]:
    if isinstance(parts, str | Mapping):
        raise ConfigError(f"{where} must be a list of parts, one per language direction")
    return tuple(_build_part(part, f"{where}[{i}]", on_every_source, unused) for i, part in enumerate(parts))


def _build_part(part: Any, where: str, on_every_source: Mapping[str, Any], unused: set[str]) -> Part:
    if not isinstance(part, Mapping) or not isinstance(part.get("source"), Mapping):
        raise ConfigError(f"{where}.source is missing; describe it, e.g. {{'kind': 'files', 'path': 'train.jsonl'}}")
    source = source_from_config(part["source"], f"{where}.source")
    known = configuration.plain(source)
    changes = {name: value for name, value in on_every_source.items() if name in known}
    unused.difference_update(changes)
    source = source_from_config(_merge(known, changes, where), f"{where}.source")
    return configuration.build(Part, {**part, "source": source}, where)


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any], where: str) -> dict[str, Any]:
    """`base` with `changes`: groups of fields are merged, everything else is replaced."""
    merged = dict(base)
    for name, value in changes.items():
        if isinstance(value, Mapping) and isinstance(base.get(name), Mapping):
            value = _merge(base[name], value, f"{where}.{name}")
        merged[name] = value
    return merged


_DEFAULTS: dict[str, dict[str, Any]] = {
    "translation": {"template": templates.TRANSLATION, "max_source_tokens": 256, "max_target_tokens": 256},
    "summarization": {"template": templates.SUMMARIZATION, "max_source_tokens": 512, "max_target_tokens": 256},
}
