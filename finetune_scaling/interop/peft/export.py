"""A run's adapter out: a directory that peft's PeftModel.from_pretrained puts on the base's Hugging Face form."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.files import new_directory
from finetune_scaling.interop.families.standard_form import StandardForm
from finetune_scaling.interop.peft.adapter_config import (
    CONFIG,
    PROMPT_TENSOR,
    WEIGHTS,
    LoraSettings,
    PromptSettings,
    lora_fields,
    prompt_fields,
)
from finetune_scaling.interop.peft.lora import Module, adapted, modules, to_peft
from finetune_scaling.interop.provenance import PROVENANCE, provenance
from finetune_scaling.interop.weights.run_weights import TrainedRun
from finetune_scaling.interop.weights.safetensors_writer import Shape, open_files
from finetune_scaling.tuning.lora import LoraAdapter


class BaseName(NamedTuple):
    """Where others find the base: its directory, or its name and revision on a hub; None where nothing is known."""

    name: str | None = None
    revision: str | None = None


class Adapter(NamedTuple):
    """The fields of an adapter_config.json and the tensors beside it."""

    fields: Mapping[str, Any]
    tensors: Mapping[str, np.ndarray]


def plan_adapter(run: TrainedRun, form: StandardForm, base: BaseName) -> Adapter:
    """The adapter of a run on the standard form of its base.

    Raises ConfigError where the run trained a whole model, or a prompt of no length.
    """
    if isinstance(run.tuning.adapter, LoraAdapter):
        return _lora(run, form, run.tuning.adapter, base)
    if run.tuning.prefix is not None and run.tuning.prefix_length:
        prompt = run.adapter["prompt/embedding"]
        fields = prompt_fields(PromptSettings(*prompt.shape), run.model, *base)
        return Adapter(fields, {PROMPT_TENSOR: prompt})
    raise ConfigError(f"{run.found.directory}: {run.tuning.name} tuned no adapter; write the model itself: --to-hf=DIR")


def write_adapter(adapter: Adapter, out: Path, run: TrainedRun) -> dict[str, Any]:
    """Writes an adapter's directory, which is there as a whole or not at all; returns the figures for its user.

    Raises WorkdirError where `out` is not empty, or has not the room.
    """
    shapes = {name: Shape(value.shape, str(value.dtype)) for name, value in adapter.tensors.items()}
    total = sum(shape.bytes for shape in shapes.values())
    with new_directory(out, total) as directory:
        with open_files({directory / WEIGHTS: shapes}) as files:
            for name, value in adapter.tensors.items():
                files.write(name, value)
        for name, content in ((CONFIG, adapter.fields), (PROVENANCE, provenance(run))):
            (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    parameters = sum(value.size for value in adapter.tensors.values())
    return {"out": str(out), "peft_type": adapter.fields["peft_type"], "parameters": parameters, "bytes": total}


def _lora(run: TrainedRun, form: StandardForm, adapter: LoraAdapter, base: BaseName) -> Adapter:
    extended = [module for module in modules(form.family, form.config) if adapted(module, run.adapter)]
    alpha = adapter.scale * adapter.rank
    fused = {module.last_name: n for module in extended if (n := len(adapted(module, run.adapter))) > 1}
    settings = LoraSettings(
        rank=adapter.rank,
        alpha=_whole(alpha),
        ranks={name: adapter.rank * parts for name, parts in fused.items()},
        alphas={name: _whole(alpha * parts) for name, parts in fused.items()},
    )
    tensors: dict[str, np.ndarray] = {}
    for module in extended:
        tensors |= to_peft(module, run.adapter)
    return Adapter(lora_fields(settings, _targets(extended, form), *base), tensors)


def _targets(extended: list[Module], form: StandardForm) -> list[str]:
    """The names that PEFT finds the modules by, and no others."""
    targets = [module.last_name for module in extended]
    others = [m.last_name for m in modules(form.family, form.config) if m not in extended]
    assert len({*targets, *others}) == len(targets) + len(others), "two kinds of modules of one name"
    return targets


def _whole(number: float) -> float:
    """As an int where it is one, as PEFT writes it."""
    return int(number) if number == int(number) else number
