"""Fixtures of the interop tests: runs of random models, and the logits of both sides."""

import contextlib
import functools
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from finetune_scaling import configuration
from finetune_scaling.configuration import merge
from finetune_scaling.data.tokenizers.sentencepiece_tokenizer import SentencePieceTokenizer
from finetune_scaling.data.tokenizers.training import TokenizerConfig, train_tokenizer
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.runs.checkpoints import Checkpoints
from finetune_scaling.runs.model_loading import find_run, load_base, load_run_checkpoint
from finetune_scaling.runs.run_directory import RunDirectory
from finetune_scaling.runs.training_progress import TrainingProgress
from finetune_scaling.training.step import State
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine
from finetune_scaling.tuning.registry import METHODS

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny.py"))
TEXTS = runpy.run_path(str(Path(__file__).parents[1] / "public_tokenizers.py"))["TEXTS"]


class Runs(NamedTuple):
    """A tokenizer, and functions that write runs with it."""

    tokenizer: Path

    def write(
        self,
        directory: Path,
        config: ModelConfig,
        params: Params,
        tokenizer: str | None = None,
        public: dict[str, Any] | None = None,
    ) -> Path:
        """Write the run of a pretrained model without optimizer state.

        public: the `public` block of its config, if it was imported.
        """
        own = str(self.tokenizer) if tokenizer is None else tokenizer
        model = configuration.plain(config)
        pretraining = {**configuration.plain(TINY["get_config"]("pretrain")), "model": model, "tokenizer": own}
        if public is not None:
            del pretraining["corpus"]
            pretraining["public"] = public
        RunDirectory(directory).write_config(pretraining)
        metadata = {
            "model": model,
            "method": {"name": "full"},
            "tokenizer_sha256": SentencePieceTokenizer((self.tokenizer / "tokenizer.model").read_bytes()).digest,
            "base_digest": None,
            "tokens_per_step": 256,
            "position": configuration.plain(TrainingProgress()),
            "best_step": None,
        }
        checkpoints = Checkpoints(directory)
        checkpoints.save(7, State(params, ()), metadata)
        checkpoints.close()
        return directory

    def tune(self, directory: Path, base: Path, method: dict[str, Any]) -> Path:
        """Write a run whose adapter is random, as if it had been trained."""
        found = load_base(base)
        tuning = configure(METHODS, method)
        trainable, _ = attach(found.config, tuning, jax.random.key(0), found.params, range(4, 60))
        rng = np.random.default_rng(4)
        trainable = jax.tree.map(lambda leaf: leaf + 0.2 * rng.normal(size=leaf.shape).astype(np.float32), trainable)
        RunDirectory(directory).write_config(
            {
                "sequence": {"length": 16},
                "limits": {"max_steps": 1},
                "method": method,
                "base": {"run": str(base)},
                "tokenizer": str(self.tokenizer),
                "adapter": {"name": "random", "weights_sha256": ""},
            }
        )
        metadata = {
            **find_run(base).metadata,
            "method": method,
            "base_digest": find_run(base).metadata["arrays_digest"],
            "tokens_per_step": 16,
        }
        with contextlib.closing(Checkpoints(directory)) as checkpoints:
            checkpoints.save(0, State(trainable, ()), metadata)
        return directory

    def config(self, what: str, base: Path, **changes: Any) -> dict[str, Any]:
        """Return the config of a finetuning run on a base."""
        config = configuration.plain(TINY["get_config"](what))
        return merge(merge(config, {"tokenizer": str(self.tokenizer), "base": {"run": str(base)}}), changes)


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Runs:
    """A `Runs` with a trained tokenizer."""
    folder = tmp_path_factory.mktemp("tokenizer")
    words = (first + second for first in ("sa", "li", "ge", "bu", "ne") for second in ("ti", "vo", "ko", "mi", "lu"))
    train_tokenizer([*TEXTS, " ".join(words)], TokenizerConfig(vocab_size=300, sentinels=4), folder)
    return Runs(folder)


@pytest.fixture(scope="session")
def sequential() -> ModelConfig:
    """A model of our ladder with sequential blocks, whose logit scale is no power of two."""
    return ModelConfig(
        vocab_size=300, layers=2, model_dim=24, heads=4, kv_heads=2, head_dim=8, ffn_dim=40, max_length=64,
        block="sequential", embedding_std=1.0, compute_dtype="float32",
    )  # fmt: skip


@pytest.fixture(scope="session")
def base(runs, sequential, random_params, tmp_path_factory) -> Path:
    """The run of such a model; read-only."""
    return runs.write(tmp_path_factory.mktemp("base") / "run", sequential, random_params(sequential))


@pytest.fixture(scope="session")
def public_base(base, tmp_path_factory) -> Path:
    """The base, exported for transformers."""
    folder = tmp_path_factory.mktemp("public") / "base"
    export_run(RunExport(str(base), model=str(folder)))
    return folder


@pytest.fixture(scope="session")
def tokens() -> np.ndarray:
    """Tokens [2, 9] without special tokens."""
    return np.random.default_rng(1).integers(4, 61, size=(2, 9))


@pytest.fixture(scope="session")
def run_logits(tokens) -> Callable[[Path], np.ndarray]:
    """run_logits(run) -> the logits of the run's best checkpoint, [2, 9, V]."""

    @functools.cache
    def compiled(model: ModelConfig, adapter: Any) -> tuple[LanguageModel, Callable]:
        language_model = LanguageModel(model, adapter)
        return language_model, jax.jit(language_model.forward)

    def compute(directory: Path) -> np.ndarray:
        model = load_run_checkpoint(find_run(directory))
        language_model, forward = compiled(model.config, model.tuning.adapter)
        params = model.tuning.model_params(model.config, combine(model.trainable, model.frozen))
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        layout = TokenLayout(positions, jnp.ones_like(positions), jnp.zeros(tokens.shape, bool))
        embeddings, layout = model.tuning.embed(language_model, params, tokens, layout)
        hidden, _ = forward(params, embeddings, layout)
        return np.asarray(language_model.unembed(params, hidden[:, model.tuning.prompt_length :]))

    return compute


@pytest.fixture(scope="session")
def reference_logits(tokens) -> Callable[[Any], np.ndarray]:
    """reference_logits(model) -> the logits of a model of transformers or PEFT, without those of virtual tokens."""

    def compute(model: Any) -> np.ndarray:
        with torch.no_grad():
            return model.eval()(input_ids=torch.from_numpy(tokens)).logits[:, -tokens.shape[1] :].numpy()

    return compute
