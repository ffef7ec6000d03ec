"""Time decoding: python benchmarks/decode.py --shape=s1 --beams=4

Prints a JSON line: seconds to generate 64 new tokens after each of 32 prompts of 64 tokens (median after warm-up,
including prefill), tokens/s, and the number of compiled programs. A shape is one of train_step.py or a size of the
model ladder, with random parameters. No token ends a text. With --paced it decodes once per line on stdin, so that
several programs can take turns.
"""

import argparse
import json

import jax
import numpy as np

import measuring
from finetune_scaling import process_setup
from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.ladder import LADDER
from finetune_scaling.training.compilations import compiled_programs
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.registry import METHODS
from train_step import PEER_SHAPES, shape_named

NO_TOKEN = -1  # the id of eos: no token ends a text


def main() -> None:
    arguments = parse_arguments()
    process_setup.set_up()
    print(json.dumps(measure(arguments)), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=[*PEER_SHAPES, *LADDER], default="s1")
    parser.add_argument(
        "--method", choices=("full", "lora", "prompt"), default="full", help="tuning method of the model"
    )
    parser.add_argument("--vocabulary", type=int, default=8192, help="of a ladder shape")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), help="of the computation; default: the shape's")
    add_decoding_arguments(parser)
    arguments = parser.parse_args()
    arguments.length = arguments.prompt + arguments.new_tokens
    return arguments


def add_decoding_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of any program that decodes."""
    parser.add_argument("--beams", type=int, default=1, help="1: greedy")
    parser.add_argument("--batch", type=int, default=32, help="prompts decoded together")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--new-tokens", type=int, default=64, help="tokens generated after each prompt")
    parser.add_argument("--warmup", type=int, default=2, help="untimed calls; the first one compiles")
    parser.add_argument("--steps", type=int, default=7, help="timed calls")
    parser.add_argument("--paced", action="store_true", help="decode once per line on stdin")


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Time one shape; return the figures."""
    config = shape_named(arguments.shape, arguments).model
    decoder = Decoder(config, arguments)
    compiled = compiled_programs()
    timing = measuring.time_steps(decoder.step, arguments.warmup, arguments.steps, arguments.paced)
    return {
        "peer": "finetune_scaling", "jax": jax.__version__, "device": jax.devices()[0].device_kind,
        "shape": arguments.shape, "beams": arguments.beams, "variant": arguments.method,
        "dtype": config.compute_dtype, "parameters": count_parameters(config).total, "batch": arguments.batch,
        "prompt": arguments.prompt, "new_tokens": arguments.new_tokens,
        **timing.rounded(), "programs": compiled_programs() - compiled,
        "tokens_per_s": round(arguments.batch * arguments.new_tokens / timing.median_s),
        "peak_rss_mib": measuring.peak_memory_mib(),
    }  # fmt: skip


class Decoder:
    """Repeats decoding as in evaluation, of one batch of random prompts."""

    def __init__(self, config: ModelConfig, arguments: argparse.Namespace):
        beam = {"method": "beam", "beams": arguments.beams} if arguments.beams > 1 else {}
        self._settings = DecodingConfig(**beam)
        tuning = configure(METHODS, {"name": arguments.method})
        common = list(range(min(5000, config.vocab_size)))
        self._parameters = attach(config, tuning, jax.random.key(0), tokens=common)
        self._decoder = make_decoder(
            config, tuning, self._settings, longest=arguments.new_tokens, end_ids=(NO_TOKEN,), pad_id=0
        )
        rng = np.random.default_rng(0)
        self._prompts = rng.integers(1, config.vocab_size, size=(arguments.batch, arguments.prompt)).tolist()
        self._new_tokens = arguments.new_tokens

    def step(self) -> None:
        """Decode the batch to its end."""
        texts = generate(self._decoder, self._settings, *self._parameters, self._prompts, batch_size=len(self._prompts))
        assert all(len(best.tokens) == self._new_tokens for (best, *_) in texts)


if __name__ == "__main__":
    main()
