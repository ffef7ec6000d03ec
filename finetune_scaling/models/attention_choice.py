"""The choice of an implementation of attention by platform, length and model.

All implementations compute the same function. "auto" takes a kernel that keeps scores out of the accelerator's memory
where there is one: the Pallas kernel of flash.py on TPUs, cuDNN's on NVIDIA GPUs if it computes the model. Otherwise it
takes blockwise attention, and plain attention for short rows on CPUs, where that is faster.
"""

import dataclasses
import re
from typing import Literal

import jax

from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import ModelConfig

LONGEST_PLAIN = 512  # tokens of a row on a CPU; docs/reference.md has the measurements
_KERNELS: dict[str, Literal["flash", "cudnn"]] = {"tpu": "flash", "gpu": "cudnn"}


def resolve_attention(config: ModelConfig, platform: str, length: int) -> ModelConfig:
    """Return the config with an implementation in place of "auto"; an explicit choice stays.

    platform: tpu, gpu or cpu. length: tokens per row, soft prompt included.
    """
    if config.attention != "auto":
        return config
    if platform in _KERNELS:
        kernel = dataclasses.replace(config, attention=_KERNELS[platform])
        if _reason_against(kernel, platform) is None:
            return kernel
    is_short = platform == "cpu" and length <= LONGEST_PLAIN
    return dataclasses.replace(config, attention="plain" if is_short else "blockwise")


def check_attention(config: ModelConfig, platform: str) -> None:
    """Raise ConfigError if the attention is not for the platform (tpu, gpu or cpu) or not for the model."""
    if reason := _reason_against(config, platform):
        raise ConfigError(f"model.attention = {config.attention!r} {reason}. Fix: use 'auto'")


def _reason_against(config: ModelConfig, platform: str) -> str | None:
    """Return why the attention of a config cannot be computed; None if it can."""
    needed = next((known for known, kernel in _KERNELS.items() if kernel == config.attention), platform)
    if platform != needed:
        return f"needs a {needed.upper()}, not {platform}"
    return _reason_against_cudnn(config) if config.attention == "cudnn" else None


def _reason_against_cudnn(config: ModelConfig) -> str | None:
    """Return why cuDNN's kernel does not compute a model on this GPU; on a Hopper if there is none here."""
    if config.attention_softcap is not None:
        return f"does not compute model.attention_softcap = {config.attention_softcap}"
    if config.compute_dtype != "bfloat16":
        return f"needs model.compute_dtype = 'bfloat16', not {config.compute_dtype!r}"
    capability = getattr(jax.local_devices()[0], "compute_capability", None) or "9.0"
    if not re.fullmatch(r"[\d.]+", capability):
        return f"needs an NVIDIA GPU, not {capability}"
    largest = 256 if float(capability) >= 9 else 128
    if config.head_dim > largest or config.head_dim % 8:
        return (
            f"needs heads of at most {largest} dimensions, a multiple of 8, on this GPU; model.head_dim is "
            f"{config.head_dim}"
        )
    return None
