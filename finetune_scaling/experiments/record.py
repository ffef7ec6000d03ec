"""Records of a run: metadata of its checkpoints, its result, and its environment."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

import finetune_scaling
from finetune_scaling import configuration
from finetune_scaling.models.attention_choice import resolve_attention
from finetune_scaling.models.config import count_parameters
from finetune_scaling.runs.model_loading import TunedModel
from finetune_scaling.runs.run_config import RunConfig
from finetune_scaling.runs.run_data import RunData, task_encoder
from finetune_scaling.runs.split_records import split_digests
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.training.flops import training_flops
from finetune_scaling.trees import parameter_count

_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "sentencepiece", "sacrebleu", "numpy")


def checkpoint_metadata(run_config: RunConfig, data: RunData, model: TunedModel) -> dict[str, Any]:
    """Return the metadata of all checkpoints of a run: model, method, tokenizer and base model."""
    encoder = task_encoder(run_config, model.tokenizer)
    return {
        **({"encoding": encoder.identity} if encoder and encoder.identity else {}),
        "model": configuration.plain(model.config),
        "method": configuration.plain(run_config.method),
        "tokenizer_sha256": model.tokenizer.digest,
        "base_digest": model.base_metadata.get("arrays_digest"),
        "tokens_per_step": run_config.tokens_per_step,
        "split_digests": split_digests(data.splits),
    }


def pretrain_tokens(base: Mapping[str, Any]) -> int | None:
    """Return the tokens that a base was trained on, from its checkpoint's metadata; None if unknown."""
    if not base or "public" in base:
        return base.get("public", {}).get("pretrain_tokens")
    return base["position"]["step"] * base["tokens_per_step"]


def _default_name(run_config: RunConfig, model: TunedModel) -> str:
    """Return task, public base model and method of a run without a name."""
    task = (run_config.task or {}).get("name", "")
    public = model.base_metadata.get("public", {}).get("name", "")
    return " ".join(filter(None, (task, Path(public).name, model.tuning.name)))


def attention_in_training(run_config: RunConfig, model: TunedModel) -> str:
    """Return the implementation of attention in the run's train step on the available devices."""
    positions = run_config.row_length + model.tuning.prompt_length
    return resolve_attention(model.config, jax.default_backend(), positions).attention


def training_record(
    run_config: RunConfig, data: RunData, model: TunedModel, progress: TrainingProgress
) -> dict[str, Any]:
    """Return the result record without scores."""
    parameters = count_parameters(model.config)
    row = run_config.row_length
    base = model.base_metadata
    return {
        "name": run_config.name or _default_name(run_config, model),
        "task": data.task.name if data.task else None,
        "method": model.tuning.name,
        "pet_size": model.tuning.size,
        "parameters": parameters.total,
        "parameters_non_embedding": parameters.non_embedding,
        "trainable_parameters": parameter_count(model.trainable),
        "compute_dtype": model.config.compute_dtype,
        "matmul_precision": model.config.matmul_precision,
        "attention": attention_in_training(run_config, model),
        "pretrain_tokens": pretrain_tokens(base),
        "finetune_examples": data.train.statistics["examples"] if data.task else None,
        "learning_rate": run_config.schedule_config.learning_rate,
        "batch_size": run_config.batch_size,
        "seeds": configuration.plain(run_config.seeds),
        "steps": progress.step,
        "best_step": progress.best_step,
        "dev_loss": progress.best_loss,
        "dev_evaluations": len(progress.losses),
        "dev_losses": dict(zip(map(str, progress.steps_evaluated), progress.losses, strict=True)),
        "stopped_by": progress.stopped_by,
        "tokens_seen": progress.step * run_config.batch_size * row,
        "target_tokens": progress.target_tokens,
        "flops": training_flops(model.config, model.tuning, progress.step, run_config.batch_size, row),
        "tokenizer_sha256": model.tokenizer.digest,
        "base_digest": base.get("arrays_digest"),
        "splits": data.splits,
    }


@functools.cache
def environment() -> dict[str, Any]:
    """Return versions, devices, and the git commit of the code if it is a checkout."""
    devices = jax.devices()
    return {
        "finetune_scaling": finetune_scaling.__version__,
        "git_commit": _git_commit(),
        "python": sys.version.split()[0],
        "platform": platform.platform(),
        "packages": {name: importlib.metadata.version(name) for name in _PACKAGES},
        "devices": {"count": len(devices), "kind": devices[0].device_kind, "platform": devices[0].platform},
        "processes": jax.process_count(),
    }


def _git_commit() -> str | None:
    """Return the commit of the checkout, with + if files differ from it; None outside a checkout or without git."""
    folder = Path(finetune_scaling.__file__).parent
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return commit + ("+" if _git(folder, "status", "--porcelain") else "")  # untracked modules are code, too
    except (OSError, subprocess.SubprocessError):
        return None


def _git(folder: Path, *command: str) -> str:
    done = subprocess.run(["git", *command], cwd=folder, capture_output=True, text=True, check=True, timeout=20)
    return done.stdout.strip()
