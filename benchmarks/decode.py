"""Times decoding: python benchmarks/decode.py --shape=s1 --beams=4

Prints a JSON line: seconds to write 64 new tokens after each of 32 prompts of 64 tokens (median after warm-up, prefill
included), tokens/s, and the compiled programs. A shape is s1 or s2 (Llama's form: sequential, untied head, multi-head,
float32, random weights) or a rung of the model ladder. No token ends a text. With --paced it decodes once for each line
on stdin, so that programs can be timed in turns.
"""

import argparse
import dataclasses
import json
import time

import jax
import numpy as np

import measuring
from finetune_scaling import process_setup
from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.training.step import compiled_programs
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS
from train_step import PEER_SHAPES, shape_named

NO_TOKEN = -1  # the id of eos: none, so that all texts become as long as they may


def main() -> None:
    arguments = parse_arguments()
    process_setup.set_up()
    print(json.dumps(measure(arguments)), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*PEER_SHAPES, *LADDER], default="s1")
    parser.add_argument("--beams", type=int, default=1, help="1 is greedy")
    parser.add_argument("--method", choices=("full", "lora", "prompt"), default="full", help="how it was tuned")
    parser.add_argument("--batch", type=int, default=32, help="prompts decoded together")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens written after each prompt")
    parser.add_argument("--vocabulary", type=int, default=8192, help="of a ladder shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the computation")
    parser.add_argument("--warmup", type=int, default=2, help="untimed calls; the first one compiles")
    parser.add_argument("--steps", type=int, default=7)
    parser.add_argument("--paced", action="store_true", help="one call for each line on stdin")
    arguments = parser.parse_args()
    arguments.length = arguments.prompt + arguments.new_tokens
    return arguments


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Times one shape; the figures that main prints."""
    config = shape_named(arguments.shape, arguments).model
    decoder = Decoder(config, arguments)
    began, compiled = time.perf_counter(), compiled_programs()
    for _ in range(arguments.warmup):
        decoder.step()
    warmup, programs = time.perf_counter() - began, compiled_programs() - compiled
    turns = measuring.on_demand() if arguments.paced else measuring.at_once(arguments.steps)
    timing = measuring.time_steps(decoder.step, turns)
    return {
        "peer": "finetune_scaling", "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "shape": arguments.shape, "beams": arguments.beams, "variant": arguments.method,
        "dtype": config.compute_dtype, "parameters": count_parameters(config).total, "batch": arguments.batch,
        "prompt": arguments.prompt, "new_tokens": arguments.new_tokens,
        **{key: round(value, 5) for key, value in dataclasses.asdict(timing).items()},
        "warmup_s": round(warmup, 1), "programs": programs,
        "tokens_per_s": round(arguments.batch * arguments.new_tokens / timing.median_s),
        "peak_rss_mib": measuring.peak_memory_mib(),
    }  # fmt: skip


class Decoder:
    """The evaluation's own decoding of one batch of random prompts, again and again."""

    def __init__(self, config: ModelConfig, arguments: argparse.Namespace):
        beam = {"method": "beam", "beams": arguments.beams} if arguments.beams > 1 else {}
        self._settings = DecodingConfig(**beam)
        tuning = configure(METHODS, {"name": arguments.method})
        common = list(range(min(5000, config.vocab_size)))
        self._parameters = attach(config, tuning, jax.random.key(0), tokens=common)
        self._decoder = make_decoder(
            config, tuning, self._settings, longest=arguments.new_tokens, eos_id=NO_TOKEN, pad_id=0
        )
        rng = np.random.default_rng(0)
        self._prompts = rng.integers(1, config.vocab_size, size=(arguments.batch, arguments.prompt)).tolist()
        self._new_tokens = arguments.new_tokens

    def step(self) -> None:
        """Decodes the batch; returns when its texts are there."""
        texts = generate(self._decoder, self._settings, *self._parameters, self._prompts, batch_size=len(self._prompts))
        assert all(len(best.tokens) == self._new_tokens for (best, *_) in texts)


if __name__ == "__main__":
    main()
