"""PEFT adapters of every kind that we exchange, trained for a few steps on a Llama."""

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from peft import IA3Config, LoraConfig, PeftConfig, PrefixTuningConfig, PromptTuningConfig, get_peft_model
from transformers import AutoModelForCausalLM

_LORA = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"], "task_type": "CAUSAL_LM"}


class Kind(NamedTuple):
    """An adapter as PEFT configures it, and our name of its method."""

    config: PeftConfig
    method: str


KINDS = {
    "lora": Kind(LoraConfig(**_LORA), "lora"),
    "lora, rank-stabilized": Kind(LoraConfig(**_LORA, use_rslora=True), "lora"),
    "lora, patterns": Kind(
        LoraConfig(
            r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM",
            rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 5}, alpha_pattern={"o_proj": 7},
        ),
        "lora",
    ),
    "dora": Kind(LoraConfig(**_LORA, use_dora=True), "dora"),
    "ia3": Kind(
        IA3Config(
            target_modules=["k_proj", "v_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"
        ),
        "ia3",
    ),
    "prompt": Kind(PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "prompt"),
    "prefix": Kind(PrefixTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"), "prefix"),
    "prefix, projected": Kind(
        PrefixTuningConfig(
            num_virtual_tokens=4, task_type="CAUSAL_LM", prefix_projection=True, encoder_hidden_size=10
        ),
        "prefix",
    ),
}  # fmt: skip


def new_adapter(kind: str, public_base: Path) -> Any:
    """Return PEFT's model of an untrained adapter."""
    torch.manual_seed(0)
    return get_peft_model(AutoModelForCausalLM.from_pretrained(public_base), KINDS[kind].config)


def train(model: Any, batches: list[np.ndarray], learning_rate: float) -> list[float]:
    """Train an adapter with AdamW, one step per batch of tokens [B, L]; return the losses in nats per token."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    losses = []
    for batch in batches:
        labels = torch.from_numpy(batch).clone()
        labels[:, 0] = -100  # the last virtual token would predict it
        optimizer.zero_grad()
        loss = model(input_ids=torch.from_numpy(batch), labels=labels).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def logits(model: Any, tokens: np.ndarray) -> np.ndarray:
    """Return the logits of the tokens [B, L], without those of virtual tokens."""
    with torch.no_grad():
        return model.eval()(input_ids=torch.from_numpy(tokens)).logits[:, -tokens.shape[1] :].numpy()
