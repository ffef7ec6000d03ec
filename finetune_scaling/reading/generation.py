"""Generate completions of given texts with a run's model on the available devices."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.task import Task
from finetune_scaling.data.templates import Template
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.context_checks import check_generation
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel, open_run
from finetune_scaling.evaluation.scoring import Example, generate_hypotheses
from finetune_scaling.evaluation.task_evaluation import base_sequence_format
from finetune_scaling.files import Location
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import task_and_format
from finetune_scaling.sharding.mesh import ShardingConfig

CONTINUATION = 32  # default number of new tokens of a base model
Languages = tuple[str | None, str | None]  # source and target; None: not given
_FIELDS = ("source_language", "target_language")


def open_model(directory: Location, step: int | None) -> EvaluatedModel:
    """Return a run's model, not loaded yet, with an attention implementation of this platform. Raises as find_run."""
    return open_run(str(directory), step, ShardingConfig(), {"attention": "auto"})


def generate(
    run_config: RunConfig,
    load: Callable[[], TunedModel],
    texts: Iterable[str],
    languages: Languages,
    options: Mapping[str, Any],
) -> list[str]:
    """Return a completion of each text; see Run.generate. load: loads the model, after options are checked."""
    texts = checked_texts(texts, "generate")
    decoding = _decoding(run_config, options)
    named = language_pair(run_config, languages)
    if not texts:
        return []
    model = load()
    longest_text, fix = "an input", "lower max_new_tokens"  # a task truncates its source texts
    if run_config.task is None:  # base models, and adapters imported without a config
        lengths = [len(ids) for ids in model.tokenizer.encode_batch(texts)]
        longest_text = f"texts[{lengths.index(max(lengths))}]"
        fix += ", or shorten the text"
        task, sequence_format = continuation_task(run_config, max(1, *lengths), decoding.limit(CONTINUATION))
    else:
        task, sequence_format = task_and_format(run_config)
    check_generation(decoding, sequence_format, model.config, model.tuning, longest_text, fix)
    examples: list[Example] = [{"source": text, "target": "", **named} for text in texts]
    size = min(run_config.evaluation.batch_size, len(texts))
    with model.sharding.use_mesh():
        written = generate_hypotheses(model, task, sequence_format, examples, size, decoding)
    return [one.text for one in written]


def checked_texts(texts: Iterable[str], method: str) -> list[str]:
    """Return texts as a list. Raises ConfigError, naming the method of Run that got them, if they are not texts."""
    if isinstance(texts, str) or not isinstance(texts, Iterable):
        raise ConfigError(f"{method} takes a list of texts, not {texts!r}. Fix: put it in brackets")
    texts = list(texts)
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ConfigError(f"{method}: texts[{index}] is {text!r}, not a text. Fix: remove or convert it")
    return texts


def _decoding(run_config: RunConfig, options: Mapping[str, Any]) -> DecodingConfig:
    """Return the run's decoding settings with overrides; another method starts from that method's defaults."""
    own = run_config.evaluation.decoding
    if options.get("method", own.method) != own.method:
        own = DecodingConfig(max_new_tokens=own.max_new_tokens, max_length_ratio=own.max_length_ratio, stop=own.stop)
    return configuration.build(DecodingConfig, {**dataclasses.asdict(own), **options}, "decoding")


def continuation_task(run_config: RunConfig, max_tokens: int, max_new_tokens: int) -> tuple[Task, SequenceFormat]:
    """Return the task of continuing texts of at most `max_tokens` tokens."""
    task = Task("continuation", "summarization", Template("{source}"), max_tokens, max_new_tokens)
    return task, base_sequence_format(run_config.objective, task, template_tokens=0)


def language_pair(run_config: RunConfig, requested: Languages) -> dict[str, str]:
    """Return the source and target language of the run's task, or of the requested one of its language pairs."""
    given = {name: code for name, code in zip(_FIELDS, requested, strict=True) if code}
    if run_config.task is None:
        if given:
            raise ConfigError("languages apply to runs with a task; this one continues the text. Fix: remove them")
        return dict.fromkeys(_FIELDS, "en")  # not used by the template of continuation_task
    task, _ = task_and_format(run_config)
    pairs = {part.direction: part for split in task.splits().values() for part in split}
    matching = [part for part in pairs.values() if all(getattr(part, name) == code for name, code in given.items())]
    if len(matching) != 1:
        which = " and ".join(f"{name} = {code!r}" for name, code in given.items())
        raise ConfigError(
            f"task {task.name} has the directions {', '.join(pairs)}, and "
            f"{f'{which} matches {len(matching)} of them' if given else 'none is given'}. Fix: give source_language, "
            "target_language or both"
        )
    return {name: getattr(matching[0], name) for name in _FIELDS}
