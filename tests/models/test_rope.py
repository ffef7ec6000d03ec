"""Rotary angles of every kind of scaling equal transformers' at positions up to 131,071."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from finetune_scaling.models.rope import LinearScaling, Llama3Scaling, YarnScaling, rotary_angles

POSITIONS = np.array([[0, 1, 1000, 8191, 32_767, 131_071]])
LONGEST = 131_072
KINDS = {
    "plain": ({"rope_type": "default"}, None),
    "linear": ({"rope_type": "linear", "factor": 8.0}, LinearScaling(8.0)),
    "llama3": (
        {
            "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        },
        Llama3Scaling(8.0, 8192),
    ),
    "yarn": (
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32_768},
        YarnScaling(4.0, 32_768, 0.1 * math.log(4.0) + 1),
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("theta", "dim"), [(10_000.0, 64), (500_000.0, 128), (1_000_000.0, 80)])
def test_angles_far_from_the_start_are_transformers(kind, theta, dim):
    fields, scaling = KINDS[kind]
    config = LlamaConfig(
        hidden_size=dim, num_attention_heads=1, head_dim=dim, max_position_embeddings=LONGEST,
        rope_parameters={**fields, "rope_theta": theta},
    )  # fmt: skip
    theirs = LlamaRotaryEmbedding(config)(torch.zeros(1), torch.from_numpy(POSITIONS))
    ours = rotary_angles(jnp.asarray(POSITIONS), dim, theta, scaling)
    for expected, found in zip(theirs, ours, strict=True):
        np.testing.assert_allclose(found[:, :, 0], expected[..., : dim // 2].numpy(), atol=1e-5)
