"""Training next to PEFT: from the same adapter, data and optimizer, both sides have the same losses at every step."""

import runpy
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.runs.model_loading import TunedModel, find_run, load_run_checkpoint
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import init_state, make_train_step

PEFT = runpy.run_path(str(Path(__file__).parents[1] / "peft_adapters.py"))
STEPS, BATCH, LENGTH = 10, 4, 16
LEARNING_RATES = {"lora": 0.02, "lora, rank-stabilized": 0.02, "dora": 0.02, "ia3": 0.05, "prompt": 0.1, "prefix": 0.1}


class Losses(NamedTuple):
    """The losses of each step in nats per token."""

    run: list[float]
    peft: list[float]

    @property
    def largest_difference(self) -> float:
        return max(abs(left - right) for left, right in zip(self.run, self.peft, strict=True))


def token_batches() -> list[np.ndarray]:
    """Return batches of tokens [B, L] that count upwards, so that there is something to learn."""
    rng = np.random.default_rng(2)
    starts = rng.integers(4, 40, size=(STEPS, BATCH, 1))
    return list(starts + np.arange(LENGTH))


def our_losses(model: TunedModel, batches: list[np.ndarray], learning_rate: float) -> list[float]:
    """Train with our compiled step; return the losses in nats per token."""
    optimizer = OptimizerConfig(name="adamw", clip_norm=None)
    step = make_train_step(model.config, model.tuning, optimizer)
    state, losses = init_state(model.trainable, optimizer), []
    for tokens in batches:
        positions = np.broadcast_to(np.arange(LENGTH, dtype=np.int32), tokens.shape)
        batch = {
            "tokens": tokens.astype(np.int32),
            "targets": np.roll(tokens, -1, axis=1).astype(np.int32),
            "weights": (positions < LENGTH - 1).astype(np.float32),
            "positions": positions,
            "segments": np.ones_like(positions),
            "prefix": np.zeros(tokens.shape, bool),
        }
        state, metrics = step(state, model.frozen, batch, jnp.float32(learning_rate))
        losses.append(float(metrics.loss_sum / metrics.tokens))
    return losses


def train_both(kind: str, public_base: Path, base: Path, folder: Path) -> Losses:
    """Train one adapter on both sides from the same initial values."""
    peft_model = PEFT["new_adapter"](kind, public_base)
    peft_model.save_pretrained(folder / "adapter")
    import_adapter(AdapterImport(str(folder / "adapter"), str(base), str(folder / "run")))
    model = load_run_checkpoint(find_run(folder / "run"))
    losses = our_losses(model, token_batches(), LEARNING_RATES[kind])
    return Losses(losses, PEFT["train"](peft_model, token_batches(), LEARNING_RATES[kind]))


@pytest.mark.parametrize("kind", LEARNING_RATES)
def test_losses_equal_those_of_peft_at_every_step(kind, public_base, base, tmp_path, record_property):
    losses = train_both(kind, public_base, base, tmp_path)
    record_property("losses", losses.largest_difference)  # read by benchmarks/peft_parity.py
    assert losses.largest_difference < 1e-3
    assert losses.peft[-1] < losses.peft[0] - 0.05  # otherwise agreement would prove little
