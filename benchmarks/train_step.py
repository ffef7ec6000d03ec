"""Time the train step: python benchmarks/train_step.py --shape=s1,300k --method=full,lora,prompt

Prints a JSON line per shape and method: seconds per step (median after warm-up), tokens/s, and achieved GFLOP/s next to
those of a plain matrix product on the same machine; on accelerators also MFU, and the peak of device memory beside the
estimate of the plan command. A shape is a size of the model ladder, or one of Llama's architecture (sequential blocks,
untied head) with all tokens in the loss: s1 and s2 (float32), llama-1b and llama-8b (bfloat16). FLOPs are
those of training/flops.py. With --paced it runs one step per line on stdin, so that several programs can take turns.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import measuring
from finetune_scaling import process_setup
from finetune_scaling.chips import Chip, Slice, chip_of_device
from finetune_scaling.models.attention_choice import resolve_attention
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import LADDER, model_config
from finetune_scaling.planning.estimate import estimate_step
from finetune_scaling.planning.layout import Layout
from finetune_scaling.planning.workload import Workload
from finetune_scaling.training.flops import training_flops
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import State, init_state, make_train_step
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

LOW_RANK = {"rank": 4, "alpha": 8.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "full": {},
    "fmt": {},
    "prompt": {"length": 100},
    "lora": LOW_RANK,
    "dora": LOW_RANK,
}
OPTIMIZERS = {
    "adamw": OptimizerConfig(name="adamw", clip_norm=None, weight_decay=1e-4),
    "adafactor": OptimizerConfig(name="adafactor", clip_norm=None),
}
LEARNING_RATE = 1e-3
MATMUL_SIZE, MATMUL_CALLS = 2048, 5


@dataclasses.dataclass(frozen=True)
class Shape:
    """A model and its batch: `batch` rows of `length` tokens."""

    model: ModelConfig
    batch: int
    length: int


def llama(layers: int, width: int, heads: int, vocab: int, batch: int, length: int = 256, **fields: Any) -> Shape:
    """Return a model with Llama's architecture, by default in float32, and its batch."""
    model = ModelConfig(
        vocab_size=vocab, layers=layers, model_dim=width, heads=heads, head_dim=width // heads, block="sequential",
        tied_head=False, scale_logits=False, embedding_std=0.02, max_length=2 * length,
        **{"kv_heads": heads, "ffn_dim": 4 * width, "compute_dtype": "float32", **fields},
    )  # fmt: skip
    return Shape(model, batch, length)


PEER_SHAPES = {
    "s1": llama(4, 256, 4, 8192, batch=16),
    "s2": llama(8, 512, 8, 16384, batch=8),
    "llama-1b": llama(16, 2048, 16, 32_000, batch=16, length=512, compute_dtype="bfloat16"),
    "llama-8b": llama(
        32, 4096, 32, 128_256, batch=4, length=4096, kv_heads=8, ffn_dim=14_336, compute_dtype="bfloat16", remat="full"
    ),
}


def main() -> None:
    arguments = parse_arguments()
    process_setup.set_up()
    if arguments.paced and len(arguments.shape) * len(arguments.method) > 1:
        raise SystemExit("error: --paced times one shape and one method")
    for name, method in itertools.product(arguments.shape, arguments.method):
        print(json.dumps(measure(name, method, arguments)), flush=True)


def parse_arguments() -> argparse.Namespace:
    def names(text: str) -> list[str]:
        return text.split(",")

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=names, default=["s1"], help=f"of {', '.join([*PEER_SHAPES, *LADDER])}")
    parser.add_argument("--method", type=names, default=["full", "lora", "prompt"], help=f"of {', '.join(OPTIONS)}")
    parser.add_argument("--optimizer", choices=OPTIMIZERS, default="adamw")
    parser.add_argument("--rank", type=int, help="of LoRA and DoRA; default: 4")
    parser.add_argument("--batch", type=int, help="rows; default: the shape's, 16 of the ladder's")
    parser.add_argument("--length", type=int, help="tokens of a row; default: the shape's, 256 of the ladder's")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of a ladder shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation; default: the shape's")
    parser.add_argument("--attention", default="auto", help="implementation, a value of model.attention")
    parser.add_argument("--warmup", type=int, default=2, help="untimed steps; the first one compiles")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--paced", action="store_true", help="run one step per line on stdin")
    arguments = parser.parse_args()
    for flag, given, known in (
        ("shape", arguments.shape, [*PEER_SHAPES, *LADDER]),
        ("method", arguments.method, list(OPTIONS)),
    ):
        for name in given:
            if name not in known:
                parser.error(f"--{flag}={name} is unknown; choose from {', '.join(known)}")
    return arguments


def measure(name: str, method: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Time one shape and method; return the figures."""
    shape = shape_named(name, arguments)
    tuning = configure(METHODS, method_block(method, arguments.rank))
    model = dataclasses.replace(shape.model, attention=arguments.attention)
    model = resolve_attention(model, jax.default_backend(), shape.length + tuning.prompt_length)
    shape = dataclasses.replace(shape, model=model)
    trainer = Trainer(shape, tuning, OPTIMIZERS[arguments.optimizer])
    matmul = matmul_gflops(shape.model.compute_dtype)
    timing = measuring.time_steps(trainer.step, arguments.warmup, arguments.steps, arguments.paced)
    flops = training_flops(shape.model, tuning, 1, shape.batch, shape.length)
    chip = chip_of_device(jax.devices()[0].device_kind)
    on_chip = {} if chip is None else chip_figures(chip, shape, tuning, arguments.optimizer, flops / timing.median_s)
    return {
        "peer": "finetune_scaling", "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "shape": name, "method": method, "optimizer": arguments.optimizer, "dtype": shape.model.compute_dtype,
        "attention": shape.model.attention,
        "parameters": count_parameters(shape.model).total, "batch": shape.batch, "length": shape.length,
        **timing.rounded(),
        "steps_per_s": round(1 / timing.median_s, 3),
        "tokens_per_s": round(shape.batch * shape.length / timing.median_s),
        "gflop_per_s": round(flops / timing.median_s / 1e9, 1),
        "matmul_gflop_per_s": round(matmul, 1),
        "peak_rss_mib": measuring.peak_memory_mib(), **on_chip,
        "first_loss": round(trainer.losses[0], 3), "last_loss": round(trainer.losses[-1], 3),
    }  # fmt: skip


def method_block(method: str, rank: int | None) -> dict[str, Any]:
    """Return the fields of a config's `method`."""
    scaled = {} if rank is None or "rank" not in OPTIONS[method] else {"rank": rank, "alpha": 2.0 * rank}
    return {"name": "full" if method == "fmt" else method, **OPTIONS[method], **scaled}


def chip_figures(
    chip: Chip, shape: Shape, tuning: TuningMethod, optimizer: str, flops_per_second: float
) -> dict[str, object]:
    """Return MFU, and the peak of device memory beside that of the plan command, in MiB."""
    workload = Workload(shape.model, tuning, OPTIMIZERS[optimizer], shape.batch, shape.length, evaluation_batch=1)
    planned = estimate_step(workload, Slice(chip, (1,)), Layout(1, 1, 1, remat=shape.model.remat)).peak
    measured = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
    return {
        "mfu": round(flops_per_second / chip.peak_flops, 4),
        "peak_device_mib": measured >> 20,
        "planned_peak_mib": planned >> 20,
    }


def shape_named(name: str, arguments: argparse.Namespace) -> Shape:
    """Return a shape of PEER_SHAPES or a size of the ladder, with the batch, length and dtype of the arguments."""
    if name in PEER_SHAPES:
        shape = PEER_SHAPES[name]
    else:
        fields = {"name": name, "compute_dtype": "float32", "max_length": 4096}
        shape = Shape(model_config(fields, arguments.vocabulary), batch=16, length=256)
    model = dataclasses.replace(shape.model, compute_dtype=arguments.dtype or shape.model.compute_dtype)
    return Shape(model, arguments.batch or shape.batch, arguments.length or shape.length)


class Trainer:
    """Repeats the train step of the training command on one random batch."""

    def __init__(self, shape: Shape, tuning: TuningMethod, optimizer: OptimizerConfig):
        common = list(range(min(5000, shape.model.vocab_size)))
        trainable, self.frozen = attach(shape.model, tuning, jax.random.key(0), tokens=common)
        self.state: State = init_state(trainable, optimizer)
        self.losses: list[float] = []
        self._step = make_train_step(shape.model, tuning, optimizer)
        self._batch = random_batch(shape)

    def step(self) -> None:
        """Run one step to its end."""
        self.state, metrics = self._step(self.state, self.frozen, self._batch, jnp.float32(LEARNING_RATE))
        self.losses.append(float(metrics.loss_sum) / float(metrics.tokens))
        jax.block_until_ready(self.state)


def random_batch(shape: Shape) -> Tree:
    """Return a batch of random tokens [B, L] for a causal model, with every token a target."""
    rng = np.random.default_rng(0)
    rows = (shape.batch, shape.length)
    tokens = rng.integers(shape.model.vocab_size, size=rows, dtype=np.int32)
    batch = {
        "tokens": tokens,
        "targets": np.roll(tokens, -1, axis=1),
        "weights": np.ones(rows, np.float32),
        "positions": np.broadcast_to(np.arange(shape.length, dtype=np.int32), rows),
        "segments": np.ones(rows, np.int32),
    }
    return jax.tree.map(jnp.asarray, batch)


def matmul_gflops(dtype: str) -> float:
    """Return the GFLOP/s of a jitted square matrix product, which a train step cannot exceed."""
    left = jnp.ones((MATMUL_SIZE, MATMUL_SIZE), dtype)
    product = jax.jit(jnp.matmul)
    product(left, left).block_until_ready()
    seconds = []
    for _ in range(MATMUL_CALLS):
        began = time.perf_counter()
        product(left, left).block_until_ready()
        seconds.append(time.perf_counter() - began)
    return 2 * MATMUL_SIZE**3 / statistics.median(seconds) / 1e9


if __name__ == "__main__":
    main()
