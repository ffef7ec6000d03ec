"""Zero-shot: the kind of task that a model was tuned for, in languages that it was never tuned on.

As in arXiv 2402.17193, section 4: FLORES-200 into the tuned task's target language; for the artificial languages of
data/grammar, language C in the place of the source.
"""

import dataclasses

from finetune_scaling import configuration
from finetune_scaling.data.examples import Part
from finetune_scaling.data.sources import FilesSource, GrammarSource
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.errors import ConfigError

_NEVER_TUNED_ON = ("C", "B", "A")
_MEND = "give the evaluator a task: evaluators.zero_shot.task"


def zero_shot_task(task: Task) -> Task:
    """The task of directions that `task` does not train, its test sets being all there is of it.

    Raises ConfigError where none belongs to the task; a config can name any other.
    """
    parts = [part for split in task.splits().values() for part in split]
    if parts and all(isinstance(part.source, GrammarSource) for part in parts):
        return _third_language(task, parts)
    targets = {part.target_language for part in parts}
    if task.kind == "translation" and len(targets) == 1:
        return _flores(task, parts, targets.pop())
    raise ConfigError(f"no directions that were never trained on are known for task {task.name}; {_MEND}")


def _third_language(task: Task, parts: list[Part]) -> Task:
    """The test sets with another language for the source (of summaries: for both)."""
    used = {code for part in parts for code in (part.source_language, part.target_language)}
    other = next((code for code in _NEVER_TUNED_ON if code not in used), None)
    if other is None:
        raise ConfigError(f"task {task.name} trains all artificial languages, so that none is left; {_MEND}")

    def changed(part: Part) -> Part:
        assert isinstance(part.source, GrammarSource)
        languages = (other, *part.source.languages[1:])
        target = part.target_language if task.kind == "translation" else other
        source = dataclasses.replace(part.source, languages=languages)
        return dataclasses.replace(part, source=source, source_language=other, target_language=target)

    tests = {f"{name}-{other}": tuple(changed(part) for part in test) for name, test in task.test.items()}
    return dataclasses.replace(task, name=f"{task.name}_{other}", train=(), dev=(), test=tests)


def _flores(task: Task, parts: list[Part], target: str) -> Task:
    """FLORES-200 into the task's target language, in the task's own template and limits."""
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
    trained = {part.direction for part in parts}
    tests = {
        name: test
        for name, test in flores.test.items()
        if test[0].target_language == target and test[0].direction not in trained
    }
    if not tests:
        raise ConfigError(f"the task flores200 has no directions into {target!r}; {_MEND}")
    return dataclasses.replace(flores, test=tests)
