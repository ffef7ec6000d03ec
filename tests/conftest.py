"""What all tests share: where the real data is, and a tiny decoder with methods on it."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import Tuning, configure
from finetune_scaling.tuning.partition import Tree, path_name
from finetune_scaling.tuning.registry import METHODS


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real text and scaling data; tests that need it skip where FINETUNE_SCALING_DATA is unset."""
    folder = os.environ.get("FINETUNE_SCALING_DATA")
    if not folder:
        pytest.skip("FINETUNE_SCALING_DATA does not name a data folder")
    return Path(folder)


class TunedDecoder(NamedTuple):
    """A method on the tiny base, every trained leaf moved away from its start, as after training."""

    tuning: Tuning
    trainable: Tree
    frozen: Tree


@pytest.fixture(scope="session")
def tiny_config() -> ModelConfig:
    """A decoder that compiles in a moment; no two of its sizes are equal, so that shapes tell what an array is."""
    return ModelConfig(
        vocab_size=61,
        layers=2,
        model_dim=24,
        heads=4,
        kv_heads=2,
        head_dim=8,
        ffn_dim=40,
        max_length=64,
        compute_dtype="float32",
    )


@pytest.fixture(scope="session")
def random_params() -> Callable[[ModelConfig], Params]:
    """random_params(config): parameters drawn without compiling anything, norms and biases random too."""

    def draw(config: ModelConfig) -> Params:
        rng = np.random.default_rng(0)

        def leaf(path: tuple, shape: jax.ShapeDtypeStruct) -> jax.Array:
            fan_in = shape.shape[-2] if path_name(path).endswith(("kernel", "head")) else 1
            mean = 1.0 if path_name(path).endswith("scale") else 0.0
            return jnp.asarray(mean + rng.normal(size=shape.shape) * fan_in**-0.5 * (0.1 if mean else 1), jnp.float32)

        return jax.tree_util.tree_map_with_path(leaf, jax.eval_shape(LanguageModel(config).init, jax.random.key(0)))

    return draw


@pytest.fixture(scope="session")
def tiny_base(tiny_config: ModelConfig, random_params: Callable[[ModelConfig], Params]) -> Params:
    """Random parameters of `tiny_config`; nobody may change or donate them."""
    return random_params(tiny_config)


@pytest.fixture(scope="session")
def tuned(tiny_config: ModelConfig, tiny_base: Params) -> Callable[..., TunedDecoder]:
    """tuned("lora", rank=3): that method on the tiny base, its trained leaves moved by `noise` times a normal draw."""

    @functools.cache
    def make(name: str, noise: float = 0.5, **options: Any) -> TunedDecoder:
        tuning = configure(METHODS, {"name": name, **options})
        trainable, frozen = attach(tiny_config, tuning, jax.random.key(1), tiny_base, range(8, tiny_config.vocab_size))
        rng = np.random.default_rng(2)
        move = lambda leaf: leaf + noise * rng.normal(size=leaf.shape).astype(np.float32)  # noqa: E731
        return TunedDecoder(tuning, jax.tree.map(move, trainable) if noise else trainable, frozen)

    return make
