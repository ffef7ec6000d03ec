"""Zero-shot tasks: the task that a model was tuned on, in language directions that it was not tuned on.

As in arXiv 2402.17193, section 4, this is FLORES-200 into the tuned task's target language. For the artificial
languages of data/grammar, language C replaces the source language.
"""

import dataclasses

from finetune_scaling import configuration
from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource, GrammarSource
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.languages import language_of

_ARTIFICIAL_LANGUAGES = ("C", "B", "A")
_FIX = "set the evaluator's task: evaluators.zero_shot.task"


def zero_shot_task(task: Task) -> Task:
    """Return the task of directions that `task` does not train; it has test sets only.

    Raises ConfigError if no such task is known; a config can name any other task.
    """
    parts = [part for split in task.splits().values() for part in split]
    if parts and all(isinstance(part.source, GrammarSource) for part in parts):
        return _third_language(task, parts)
    targets = {part.target_language for part in parts}
    if task.kind == "translation" and len(targets) == 1:
        return _flores(task, parts, targets.pop())
    raise ConfigError(f"no zero-shot directions are known for task {task.name}; {_FIX}")


def _third_language(task: Task, parts: list[Part]) -> Task:
    """Return the test sets with another source language; for summarization, with another language."""
    used = {code for part in parts for code in (part.source_language, part.target_language)}
    other = next((code for code in _ARTIFICIAL_LANGUAGES if code not in used), None)
    if other is None:
        raise ConfigError(f"task {task.name} already uses all artificial languages; {_FIX}")

    def changed(part: Part) -> Part:
        assert isinstance(part.source, GrammarSource)
        languages = (other, *part.source.languages[1:])
        target = part.target_language if task.kind == "translation" else other
        source = dataclasses.replace(part.source, languages=languages)
        return dataclasses.replace(part, source=source, source_language=other, target_language=target)

    tests = {f"{name}-{other}": tuple(changed(part) for part in test) for name, test in task.test.items()}
    return dataclasses.replace(task, name=f"{task.name}_{other}", train=(), dev=(), test=tests)


def _flores(task: Task, parts: list[Part], target: str) -> Task:
    """Return FLORES-200 into the task's target language, with the task's template and limits."""
    sources = [part.source for part in parts]
    folders = [source.data_dir for source in sources if isinstance(source, FilesSource) and source.data_dir]
    changes = {
        "name": "flores200",
        "template": configuration.plain(task.template),
        "max_source_tokens": task.max_source_tokens,
        "max_target_tokens": task.max_target_tokens,
        "sources": {"data_dir": folders[0] if folders else None},
    }
    flores = load_task(changes)
    trained = set(map(_languages, parts))
    tests = {
        name: test
        for name, test in flores.test.items()
        if _languages(test[0])[1] == language_of(target) and _languages(test[0]) not in trained
    }
    if not tests:
        raise ConfigError(f"the task flores200 has no directions into {target!r}; {_FIX}")
    return dataclasses.replace(flores, test=tests)


def _languages(part: Part) -> tuple[str, str]:
    """Return source and target language, the same for de and deu_Latn."""
    return language_of(part.source_language), language_of(part.target_language)
