"""Random tiny Llamas, as Hugging Face's model and as ours read from its files, and how to decode with ours."""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.models.language_model import Params
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import partition
from finetune_scaling.tuning.registry import METHODS

EOS, PAD, NEW = 1, 0, 14
LENGTHS = (3, 9, 1, 17, 5)
VOCABULARY = 150  # more than the blocks that the largest logits are looked for in


class Llama(NamedTuple):
    """One model: as Hugging Face's (`reference`), and the config and parameters that we read from its files."""

    reference: LlamaForCausalLM
    config: ModelConfig
    params: Params


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """llama(heads, kv_heads, tied): a random Llama that ends some of its texts."""

    @functools.cache
    def make(heads: int = 4, kv_heads: int = 4, tied: bool = False) -> Llama:
        folder = tmp_path_factory.mktemp("llama")
        reference = random_llama(heads, kv_heads, tied)
        reference.save_pretrained(folder)
        return Llama(reference, *load_model(folder))

    return make


def random_llama(heads: int, kv_heads: int, tied: bool) -> LlamaForCausalLM:
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=VOCABULARY, hidden_size=24, intermediate_size=40, num_hidden_layers=2,
            num_attention_heads=heads, num_key_value_heads=kv_heads, head_dim=8, rms_norm_eps=1e-5,
            rope_parameters={"rope_type": "default", "rope_theta": 500.0}, max_position_embeddings=128,
            tie_word_embeddings=tied, attn_implementation="eager",
        )
    )  # fmt: skip
    with torch.no_grad():
        for name, weight in model.named_parameters():
            weight.normal_(1.0 if "norm" in name else 0.0, 0.3)
        model.lm_head.weight[EOS] *= 2  # more often the likeliest
    return model.eval()


@pytest.fixture(scope="session")
def prompts() -> list[list[int]]:
    return [np.random.default_rng(i).integers(4, 61, size=length).tolist() for i, length in enumerate(LENGTHS)]


@pytest.fixture(scope="session")
def fully_tuned():
    """fully_tuned(config, params) -> (config, method full, trainable, frozen), as `decode` takes a model."""
    full = configure(METHODS, {"name": "full"})
    return lambda config, params: (config, full, *partition(params, full.trainable))


@pytest.fixture(scope="session")
def decode():
    """decode((config, tuning, trainable, frozen), prompts, **settings) -> the n_best generations of every prompt."""

    def run(tuned: tuple, prompts: list, *, batch_size: int = 5, eos_id: int = EOS, longest: int = NEW,
               other_end_ids: tuple = (), bidirectional: bool = False, token_bytes: Any = (),
               **settings: Any) -> list:  # fmt: skip
        config, tuning, *parameters = tuned
        how = DecodingConfig(**settings)
        decoder = make_decoder(
            config, tuning, how, longest=how.limit(longest), end_ids=(eos_id, *other_end_ids), pad_id=PAD,
            bidirectional_input=bidirectional,
        )  # fmt: skip
        return generate(decoder, how, *parameters, prompts, batch_size=batch_size, token_bytes=token_bytes)

    return run


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory):
    """folder_of(model): the directory to which a Hugging Face model was saved."""

    def save(model: LlamaForCausalLM, **options: Any) -> Path:
        folder = tmp_path_factory.mktemp("saved")
        model.save_pretrained(folder, **options)
        return folder

    return save
