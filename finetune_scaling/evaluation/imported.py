"""Scoring a public model as it is (interop/hugging_face.py): it is asked the task of a finetuning run's config."""

import dataclasses
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.hugging_face import HuggingFaceTokenizer, load_hugging_face_tokenizer
from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.subject import Subject
from finetune_scaling.files import local_path
from finetune_scaling.interop.hugging_face import check_model, files_digest, load_model, read_fields
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.evaluators import Evaluator, TextEvaluator
from finetune_scaling.runs.model_loading import TunedModel, make_model_sharding, untuned_model
from finetune_scaling.runs.run_config import RunConfig, SequenceConfig
from finetune_scaling.sharding.mesh import ShardingConfig

log = logging.getLogger(__name__)


def imported_subject(
    directory: str | Path,
    finetuning: RunConfig | None,
    tokenizer_directory: str,
    sharding: ShardingConfig,
    model_changes: Mapping[str, Any],
) -> tuple[Subject, ModelConfig, HuggingFaceTokenizer]:
    """The subject that a public model's directory holds, its config and its tokenizer; no tensor is read yet.

    finetuning: whose task it is asked, in the form of its sequences; tokenizer_directory: "" for the model's own.
    Raises ConfigError where there is no such task, the form is not a causal one, or our decoder does not compute the
    model; CheckpointError where files are missing or do not fit; DataError for the tokenizer's.
    """
    directory = local_path(directory, "an imported model")
    config = dataclasses.replace(check_model(directory), **model_changes)
    if finetuning is None:
        raise ConfigError(
            f"{directory}: a public model has no task of its own; give the config of a finetuning run, --config=FILE, "
            "whose task it is asked"
        )
    _check_causal(finetuning.sequence)
    tokens = Path(tokenizer_directory or directory)
    tokenizer = load_hugging_face_tokenizer(tokens, read_fields(directory))
    run_config = dataclasses.replace(
        finetuning, base=None, model=configuration.plain(config), method={"name": "full"}, tokenizer=str(tokens)
    )
    log.info("reading %s once for the digest of its weights", directory)
    checkpoint = {"files_sha256": files_digest(directory)}

    def load() -> TunedModel:
        model_sharding = make_model_sharding(config, sharding)
        _, params = load_model(directory, place=model_sharding.parameters)
        return untuned_model(config, params, tokenizer, {}, model_sharding)

    return Subject(directory, run_config, checkpoint, None, load, is_base=True), config, tokenizer


def check_evaluators(evaluators: Mapping[str, Evaluator]) -> None:
    """Raises ConfigError where one asks for what a public model does not have: text of its pretraining, or masks."""
    for name, one in evaluators.items():
        if not isinstance(one, TextEvaluator):
            continue
        if one.texts is None or one.objective is None or one.length is None:
            raise ConfigError(
                f"evaluator {name}: a public model has no pretraining text of its own; give the evaluator texts, "
                "objective and length"
            )
        if one.objective.name == "ul2" or (one.objective.name != "causal" and one.objective.bidirectional_input):
            raise ConfigError(
                f"evaluator {name}: objective = {one.objective.name} is none that a public model was trained with; set "
                "objective.name to causal"
            )


def _check_causal(sequence: SequenceConfig) -> None:
    """Raises ConfigError where a config asks for attention both ways or a mode token: public models know neither."""
    causal = {"bidirectional_input": False, "mode": ""}
    wrong = [name for name, value in causal.items() if getattr(sequence, name) != value]
    if wrong:
        found = ", ".join(f"sequence.{name} = {getattr(sequence, name)!r}" for name in wrong)
        mend = " ".join(f"--config.sequence.{name}={causal[name]}" for name in wrong)
        raise ConfigError(f"{found}: public models are causal and know no mode tokens; add {mend}")
