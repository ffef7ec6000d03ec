"""Time Hugging Face's `generate`, as decode.py: python benchmarks/decode_hugging_face.py --shape=s1 --beams=4

It needs torch and transformers: pip install -e '.[peers]'. The model is a Llama of the same shape with random float32
parameters, and no token ends a text. --static uses a KV cache of fixed size and compiles the model, for which torch
needs a C++ compiler. Prints a JSON line; with --paced it decodes once per line on stdin.
"""

import argparse
import json

import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

import measuring
from decode import add_decoding_arguments
from finetune_scaling.models.config import ModelConfig
from train_step import PEER_SHAPES


def main() -> None:
    print(json.dumps(measure(parse_arguments())), flush=True)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=list(PEER_SHAPES), default="s1")
    parser.add_argument("--static", action="store_true", help="static cache, compiled model")
    add_decoding_arguments(parser)
    return parser.parse_args()


def measure(arguments: argparse.Namespace) -> dict[str, object]:
    """Time one shape; return the figures."""
    decoder = Decoder(PEER_SHAPES[arguments.shape].model, arguments)
    timing = measuring.time_steps(decoder.step, arguments.warmup, arguments.steps, arguments.paced)
    return {
        "peer": "transformers", "torch": torch.__version__, "transformers": transformers.__version__,
        "shape": arguments.shape, "beams": arguments.beams, "variant": "static" if arguments.static else "eager",
        "dtype": "float32", "parameters": decoder.parameters, "batch": arguments.batch, "prompt": arguments.prompt,
        "new_tokens": arguments.new_tokens,
        **timing.rounded(),
        "tokens_per_s": round(arguments.batch * arguments.new_tokens / timing.median_s),
        "peak_rss_mib": measuring.peak_memory_mib(),
    }  # fmt: skip


class Decoder:
    """Repeats `generate` on one batch of random prompts."""

    def __init__(self, config: ModelConfig, arguments: argparse.Namespace):
        torch.manual_seed(0)
        self._model = LlamaForCausalLM(llama_config(config)).eval()
        self.parameters = self._model.num_parameters()
        cache = {}
        if arguments.static:
            cache["cache_implementation"] = "static"
            self._model.forward = torch.compile(self._model.forward, dynamic=False)
        self._options = {
            "max_new_tokens": arguments.new_tokens, "do_sample": False, "num_beams": arguments.beams, **cache,
        }  # fmt: skip
        self._prompts = torch.randint(1, config.vocab_size, (arguments.batch, arguments.prompt))
        self._length = arguments.prompt + arguments.new_tokens

    def step(self) -> None:
        """Decode the batch to its end."""
        mask = torch.ones_like(self._prompts)
        texts = self._model.generate(self._prompts, attention_mask=mask, **self._options)
        assert texts.shape == (len(self._prompts), self._length)


def llama_config(config: ModelConfig) -> LlamaConfig:
    """Return the Hugging Face config of the same shape."""
    return LlamaConfig(
        vocab_size=config.vocab_size, hidden_size=config.model_dim, intermediate_size=config.ffn_dim,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim, max_position_embeddings=config.max_length, tie_word_embeddings=config.tied_head,
        eos_token_id=None, bos_token_id=None, pad_token_id=0,
    )  # fmt: skip


if __name__ == "__main__":
    main()
