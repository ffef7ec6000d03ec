"""Time the train step: python benchmarks/train_step.py --shape=s1,300k --method=full,lora,prompt

Prints a JSON line per shape and method: seconds per step (median after warm-up), tokens/s, and achieved GFLOP/s next to
those of a plain matrix product on the same machine. A shape is a size of the model ladder, or s1 or s2: Llama's
architecture (sequential blocks, untied head, multi-head attention, float32) with all tokens in the loss. FLOPs are
those of training/flops.py. With --paced it runs one step per line on stdin, so that several programs can take turns.
"""

import argparse
import dataclasses
import itertools
import json
import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np

import measuring
from finetune_scaling import process_setup
from finetune_scaling.models.attention_choice import resolve_attention
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import LADDER, model_config
from finetune_scaling.training.flops import training_flops
from finetune_scaling.training.optimizers import OptimizerConfig
from finetune_scaling.training.step import State, init_state, make_train_step
from finetune_scaling.trees import Tree
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import TuningMethod, configure
from finetune_scaling.tuning.registry import METHODS

OPTIONS = {"full": {}, "fmt": {}, "prompt": {"length": 100}, "lora": {"rank": 4, "alpha": 8.0}}
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


def llama(layers: int, width: int, heads: int, vocab: int, batch: int) -> Shape:
    """Return a model with Llama's architecture in float32, and its batch."""
    model = ModelConfig(
        vocab_size=vocab, layers=layers, model_dim=width, heads=heads, kv_heads=heads, head_dim=width // heads,
        ffn_dim=4 * width, block="sequential", tied_head=False, scale_logits=False, embedding_std=0.02,
        compute_dtype="float32",
    )  # fmt: skip
    return Shape(model, batch, length=256)


PEER_SHAPES = {"s1": llama(4, 256, 4, 8192, batch=16), "s2": llama(8, 512, 8, 16384, batch=8)}


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
    parser.add_argument("--batch", type=int, default=16, help="rows of a ladder shape's batch")
    parser.add_argument("--length", type=int, default=256, help="tokens of a ladder shape's row")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of a ladder shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
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
    tuning = configure(METHODS, {"name": "full" if method == "fmt" else method, **OPTIONS[method]})
    model = dataclasses.replace(shape.model, attention=arguments.attention)
    model = resolve_attention(model, jax.default_backend(), shape.length + tuning.prompt_length)
    shape = dataclasses.replace(shape, model=model)
    trainer = Trainer(shape, tuning, OPTIMIZERS[arguments.optimizer])
    matmul = matmul_gflops(shape.model.compute_dtype)
    timing = measuring.time_steps(trainer.step, arguments.warmup, arguments.steps, arguments.paced)
    flops = training_flops(shape.model, tuning, 1, shape.batch, shape.length)
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
        "peak_rss_mib": measuring.peak_memory_mib(),
        "first_loss": round(trainer.losses[0], 3), "last_loss": round(trainer.losses[-1], 3),
    }  # fmt: skip


def shape_named(name: str, arguments: argparse.Namespace) -> Shape:
    """Return a shape of PEER_SHAPES, or a size of the ladder with the batch of the arguments."""
    if name in PEER_SHAPES:
        shape = PEER_SHAPES[name]
        return dataclasses.replace(shape, model=dataclasses.replace(shape.model, compute_dtype=arguments.dtype))
    model = model_config({"name": name, "compute_dtype": arguments.dtype}, arguments.vocabulary)
    return Shape(model, arguments.batch, arguments.length)


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
