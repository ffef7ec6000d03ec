"""A run's model on the devices at hand, and what it writes for texts of the reader's."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import jax

from finetune_scaling import configuration
from finetune_scaling.data.encoding import SequenceFormat
from finetune_scaling.data.examples import Part
from finetune_scaling.data.task import Task, load_task
from finetune_scaling.data.templates import Template
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.evaluation.evaluated_model import EvaluatedModel, open_run
from finetune_scaling.evaluation.scoring import Example, generate_hypotheses
from finetune_scaling.evaluation.task_evaluation import base_sequence_format
from finetune_scaling.files import Location
from finetune_scaling.models.attention import check_attention
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.sharding.mesh import ShardingConfig

CONTINUATION = 32  # new tokens of a base, which no task limits
Languages = tuple[str | None, str | None]  # source and target, None where it is not named
_FIELDS = ("source_language", "target_language")


def open_model(directory: Location, step: int | None) -> EvaluatedModel:
    """A run's model, yet to be loaded, in a form of attention that this platform has. Raises as `find_run` does."""
    subject, model = open_run(str(directory), step, ShardingConfig(), {})
    try:
        check_attention(model, jax.default_backend())
    except ConfigError:
        subject, _ = open_run(str(directory), step, ShardingConfig(), {"attention": "blockwise"})
    return subject


def write(
    run_config: RunConfig,
    load: Callable[[], TunedModel],
    texts: Iterable[str],
    languages: Languages,
    options: Mapping[str, Any],
) -> list[str]:
    """The best text for every one of `texts`. See Run.generate; load: reads the model, once the rest is checked."""
    texts = _checked(texts)
    decoding = _decoding(run_config, options)
    # An adapter that came in alone has no task, either.
    task = None if run_config.task is None else load_task(run_config.task)
    named = _languages(task, languages)
    if not texts:
        return []
    model = load()
    if task is None:
        task, form = _continuation(model, run_config, texts, decoding.limit(CONTINUATION))
    else:
        form = run_config.sequence.format(task.max_source_tokens, task.max_target_tokens)
    _check_room(model, form, decoding)
    examples: list[Example] = [{"source": text, "target": "", **named} for text in texts]
    size = min(run_config.evaluation.batch_size, len(texts))
    with model.sharding.use_mesh():
        return generate_hypotheses(model, task, form, examples, size, decoding)


def _checked(texts: Iterable[str]) -> list[str]:
    if isinstance(texts, str):
        raise ConfigError("generate takes a list of texts, not one text; put it in brackets")
    if not isinstance(texts, Iterable):
        raise ConfigError(f"generate takes a list of texts, not {texts!r}")
    found = list(texts)
    for place, text in enumerate(found):
        if not isinstance(text, str):
            raise ConfigError(f"generate: texts[{place}] is {text!r} and no text")
    return found


def _decoding(run_config: RunConfig, options: Mapping[str, Any]) -> DecodingConfig:
    """The run's own way of writing with some fields changed; another method begins from that method's defaults."""
    own = run_config.evaluation.decoding
    if options.get("method", own.method) != own.method:
        own = DecodingConfig(max_new_tokens=own.max_new_tokens, max_length_ratio=own.max_length_ratio, stop=own.stop)
    return configuration.build(DecodingConfig, {**dataclasses.asdict(own), **options}, "decoding")


def _continuation(
    model: TunedModel, run_config: RunConfig, texts: list[str], longest: int
) -> tuple[Task, SequenceFormat]:
    """Going on with a text as a task, which cuts no text: DataError where one and what is to come do not fit."""
    room = model.config.max_length - model.tuning.prompt_length - longest - 1  # a mode token
    lengths = [len(ids) for ids in model.tokenizer.encode_batch(texts)]
    if max(lengths) > room:
        place = lengths.index(max(lengths))
        raise DataError(
            f"texts[{place}] has {lengths[place]} tokens, and the model's context of {model.config.max_length} leaves "
            f"{max(0, room)} beside {longest} new ones; shorten it, or lower max_new_tokens"
        )
    task = Task("continuation", "summarization", Template("{source}"), max(1, *lengths), longest)
    return task, base_sequence_format(run_config.objective, task, template_tokens=0)


def _languages(task: Task | None, asked: Languages) -> dict[str, str]:
    """The languages that a source is read and answered in: the task's, or of its directions the one asked for."""
    if task is None:
        if asked != (None, None):
            raise ConfigError("languages are for runs with a task; this one goes on with the text as it is")
        return {"source_language": "en", "target_language": "en"}  # which the template of _continuation does not name
    parts = {part.direction: part for split in task.splits().values() for part in split}
    fitting = [part for part in parts.values() if _fits(part, asked)]
    if len(fitting) != 1:
        given = " and ".join(f"{name} = {code!r}" for name, code in zip(_FIELDS, asked, strict=True) if code)
        raise ConfigError(
            f"task {task.name} has the directions {', '.join(parts)}: "
            f"{f'{given} fits {len(fitting)} of them' if given else 'name one'}; give source_language or "
            "target_language, or both"
        )
    return {"source_language": fitting[0].source_language, "target_language": fitting[0].target_language}


def _fits(part: Part, asked: Languages) -> bool:
    own = (part.source_language, part.target_language)
    return all(wanted in (None, code) for wanted, code in zip(asked, own, strict=True))


def _check_room(model: TunedModel, form: SequenceFormat, decoding: DecodingConfig) -> None:
    longest = decoding.limit(form.max_target_tokens)
    inputs = model.tuning.prompt_length + form.length - form.max_target_tokens
    if inputs + longest > model.config.max_length:
        raise ConfigError(
            f"max_new_tokens = {longest} and inputs of up to {inputs} tokens are more than the model's context, "
            f"max_length = {model.config.max_length}; lower it"
        )
