"""Tasks: source text, target text, splits and languages, as data.

Named tasks are in tasks.py. A config can also contain a complete task, as `jsonl_task` makes it, or change a named one:
{"name": "wmt14_en_de", "max_source_tokens": 128, "sources": {"data_dir": "gs://b/c"}}.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from finetune_scaling import configuration
from finetune_scaling.configuration import FieldTypes, merge
from finetune_scaling.data import templates
from finetune_scaling.data.chat_template import ChatTemplate
from finetune_scaling.data.examples import Examples, Part, PartExamples
from finetune_scaling.data.language_names import language_name
from finetune_scaling.data.sources import Source, prepare_source, source_from_config
from finetune_scaling.data.tasks import TASKS, example_fields, files
from finetune_scaling.errors import ConfigError, DataError, MissingDataError
from finetune_scaling.names import check_file_names

CHAT = "chat"  # the template of the model's tokenizer
KIND_DEFAULTS: dict[str, dict[str, Any]] = {
    "translation": {"template": templates.TRANSLATION, "max_source_tokens": 256, "max_target_tokens": 256},
    "summarization": {"template": templates.SUMMARIZATION, "max_source_tokens": 512, "max_target_tokens": 256},
}


@dataclass(frozen=True)
class Task:
    """A finetuning task.

    train, dev and every test set are tuples of parts, one per language direction; their examples are concatenated.
    documentation: a note on how to get the data, which no code reads.
    Raises ConfigError if a test set's name cannot name a file, a language code is unknown, or a language direction does
    not fit the kind of task.
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
        check_file_names(self.test, f"task {self.name}: test")
        for split, parts in self.splits().items():
            for index, part in enumerate(parts):
                _check_languages(part, self.kind, self.template.languages, f"task {self.name}: {split}[{index}]")
        for name in ("max_source_tokens", "max_target_tokens"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task {self.name}: {name} = {getattr(self, name)} must be at least 1")

    def splits(self) -> dict[str, tuple[Part, ...]]:
        """Return the parts of every split by name: train, dev, and the names of the test sets."""
        splits = {"train": self.train, "dev": self.dev}
        duplicates = splits.keys() & self.test.keys()
        if duplicates:
            raise ConfigError(f"task {self.name}: a test set must not be named {min(duplicates)!r}; rename it")
        return {name: parts for name, parts in {**splits, **self.test}.items() if parts}

    def examples(self, split: str) -> Examples:
        """Open a split ("train", "dev" or a test set) as a sequence of example dicts, mapped lazily.

        An example has source, target, source_language, target_language, and target_nll if the source knows it. All
        sources of the split are opened and checked immediately. Raises DataError on an unknown split or invalid data.
        """
        splits = self.splits()
        if split not in splits:
            raise DataError(f"task {self.name} has no split {split!r}; it has {', '.join(splits)}")
        field = f"task.{split}" if split in ("train", "dev") else f"task.test.{split}"
        return Examples([self._open(part, f"{field}[{i}]") for i, part in enumerate(splits[split])])

    def _open(self, part: Part, field: str) -> PartExamples:
        try:
            return PartExamples(part)
        except MissingDataError as error:
            places = f"task.sources.data_dir=DIR or {field}.source.path=FILE"
            raise MissingDataError(f"{error}; if it has moved, set {places}") from error


_TEMPLATE = Literal["chat"] | ChatTemplate | templates.Template
TaskBlock = Annotated[Mapping[str, Any], FieldTypes(lambda _: Task, {"sources": Source, "template": _TEMPLATE})]


def load_task(spec: str | Mapping[str, Any]) -> Task:
    """Return a named task, a named task with changes, or a task whose mapping is complete.

    Changes replace fields; groups of fields are merged, lists are replaced, and None changes nothing. An empty `test`
    removes all test sets. `sources` holds fields that are set on every source of the task that has such a field:
    {"name": "grammar_translation", "sources": {"grammar": {"genders": 3}}}.
    Raises ConfigError that names the field, with the nearest known name.
    """
    mapping = complete_task(spec)
    return _build(mapping, f"task {mapping['name']}")


def complete_task(spec: str | Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a task, those of a named one included. Raises ConfigError for an unknown name."""
    mapping = {"name": spec} if isinstance(spec, str) else configuration.without_unset(spec)
    name = mapping.get("name", "")
    if name in list(TASKS):  # it may be a list, which has no hash
        mapping = _merge(TASKS[name], mapping)
    elif "kind" not in mapping:
        raise ConfigError(f"task.name = {name!r} is unknown{configuration.suggestion(name, TASKS)}")
    return {**mapping, "name": name}


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
    """Return the config of a task with one language direction over JSONL or TSV files.

    languages, fields: (source, target). train, dev, test: paths. settings: any other field of Task.
    """

    def parts(path: str) -> list[dict[str, Any]]:
        return [{"source": files(path), **example_fields(languages, fields)}] if path else []

    tests = {key: parts(path) for key, path in (test or {}).items()}
    return {"name": name, "kind": kind, "train": parts(train), "dev": parts(dev), "test": tests, **settings}


def prepare_task(task: Task) -> list[dict[str, Any]]:
    """Download and prepare every source of a task once; return the contents of each for the log."""
    reports: list[dict[str, Any]] = []
    for source in {part.source: None for parts in task.splits().values() for part in parts}:
        report = prepare_source(source)
        if report not in reports:  # all splits of a dataset are prepared together
            reports.append(report)
    return reports


def _check_languages(part: Part, kind: str, names: Mapping[str, str], where: str) -> None:
    language_name(part.source_language, f"{where}.source_language", names)
    language_name(part.target_language, f"{where}.target_language", names)
    same = part.source_language == part.target_language
    if kind == "translation" and same:
        raise ConfigError(f"{where} translates {part.source_language!r} into the same language; change one of the two")
    if kind == "summarization" and not same:
        raise ConfigError(
            f"{where}: a summary is in the language of its document, not {part.direction}; set equal languages"
        )
    if part.source_field == part.target_field:
        raise ConfigError(f"{where}: source_field and target_field are both {part.source_field!r}; change one")


def _build(mapping: Mapping[str, Any], where: str) -> Task:
    kind = configuration.choose(KIND_DEFAULTS, mapping.get("kind", ""), f"{where}: kind")
    fields = _merge(configuration.plain(kind), mapping)
    fields["template"] = _build_template(fields["template"], f"{where}: template")
    changes = fields.pop("sources", {})
    for split in ("train", "dev"):
        fields[split] = _build_parts(fields.get(split, ()), f"{where}: {split}", changes)
    fields["test"] = {
        name: _build_parts(parts, f"{where}: test.{name}", changes) for name, parts in fields.get("test", {}).items()
    }
    task = configuration.build(Task, fields, where)
    known = {name for parts in task.splits().values() for part in parts for name in configuration.plain(part.source)}
    if unused := changes.keys() - known:
        raise ConfigError(f"{where}: sources.{min(unused)} is not a field of any source of this task; remove it")
    return task


def _merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merge the fields of a task; a chat template replaces the text patterns, an empty `test` all test sets."""
    if _is_chat(changes.get("template")):
        base = {name: value for name, value in base.items() if name != "template"}
    if changes.get("test") == {}:
        base = {name: value for name, value in base.items() if name != "test"}
    return merge(base, changes)


def _is_chat(template: Any) -> bool:
    return template == CHAT or (isinstance(template, Mapping) and template.get("name") == CHAT)


def _build_template(template: Any, where: str) -> templates.Template:
    """Build a text template, or a chat template from "chat" or a mapping with this name."""
    if _is_chat(template):
        return configuration.build(ChatTemplate, {} if template == CHAT else template, where)
    if isinstance(template, Mapping) and "name" in template:
        raise ConfigError(f"{where}.name = {template['name']!r} is unknown; the only name is {CHAT!r}, or remove it")
    if not isinstance(template, Mapping):
        raise ConfigError(f"{where} = {template!r} is neither {CHAT!r} nor a group of fields such as input")
    return configuration.build(templates.Template, template, where)


def _build_parts(parts: Any, where: str, changes: Mapping[str, Any]) -> tuple[Part, ...]:
    if isinstance(parts, str | Mapping):
        raise ConfigError(f"{where} must be a list of parts, one per language direction")
    return tuple(_build_part(part, f"{where}[{i}]", changes) for i, part in enumerate(parts))


def _build_part(part: Any, where: str, changes: Mapping[str, Any]) -> Part:
    if not isinstance(part, Mapping) or not isinstance(part.get("source"), Mapping):
        raise ConfigError(f"{where}.source is missing; describe it, e.g. {{'kind': 'files', 'path': 'train.jsonl'}}")
    known = configuration.plain(source_from_config(part["source"], f"{where}.source"))
    own = {name: value for name, value in changes.items() if name in known}
    source = source_from_config(merge(known, own), f"{where}.source")
    return configuration.build(Part, {**part, "source": source}, where)
