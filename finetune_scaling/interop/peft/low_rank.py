"""LoRA and DoRA in PEFT's format, with the scales of rank-stabilized LoRA (Kalajdzievski, 2023).

PEFT has one adapter for a module that fuses k of our kernels: A [k r, in] stacks the A of each, and B [out, k r] has
the B of each as blocks and zeros elsewhere. It computes the same and can be split again. DoRA's magnitudes [out] belong
to outputs, so those of a fused module are the magnitudes of its kernels; a kernel without an adapter has its own norm.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.config_json import Fields, integral
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.peft.adapter_format import (
    ConvertedAdapter,
    PeftAdapter,
    PeftMethod,
    Tensors,
    check_unread_fields,
)
from finetune_scaling.interop.peft.modules import (
    Module,
    extended_modules,
    layer_names,
    linear_modules,
    target_modules,
)
from finetune_scaling.interop.weights.run_weights import TrainedRun
from finetune_scaling.tuning.dora import DoraAdapter
from finetune_scaling.tuning.lora import LoraAdapter

A, B, MAGNITUDE = "lora_A.weight", "lora_B.weight", "lora_magnitude_vector"
# Fields about initialization and execution.
_IRRELEVANT = frozenset(
    {"corda_config", "ensure_weight_tying", "eva_config", "exclude_modules", "lora_ga_config", "loftq_config",
     "megatron_core", "qalora_group_size", "runtime_config", "target_modules"}
)  # fmt: skip
_INITIALIZATIONS = (None, True, False, "gaussian", "orthogonal", "eva")  # those that do not change the base


@dataclasses.dataclass(frozen=True)
class LoraSettings:
    """Ranks and alphas by module: common values, and exceptions by pattern of the module's name."""

    rank: int
    alpha: float
    ranks: Mapping[str, int]
    alphas: Mapping[str, float]
    rank_stabilized: bool
    dropout: float
    dora: bool

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's adapter."""
        return _matching(self.ranks, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Return the factor of B A: alpha / rank, or alpha / sqrt(rank) if rank-stabilized."""
        rank, alpha = self.rank_of(module), _matching(self.alphas, module, self.alpha)
        return alpha / (rank**0.5 if self.rank_stabilized else rank)


def _matching(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Return the value of the first pattern that matches the end of a module's name, as PEFT searches."""
    found = (value for pattern, value in patterns.items() if re.match(rf"(.*\.)?({pattern})$", module))
    return next(found, default)


def _export(run: TrainedRun, match: FamilyMatch) -> tuple[dict[str, Any], Tensors]:
    adapter = run.tuning.adapter
    assert isinstance(adapter, LoraAdapter)
    rank_stabilized = bool(run.found.metadata["method"].get("rank_stabilized", False))
    extended = [module for module in linear_modules(match) if _adapted(module, run.adapter)]
    dora = isinstance(adapter, DoraAdapter)
    tensors: dict[str, np.ndarray] = {}
    for module in extended:
        tensors |= to_peft(module, run.adapter)
        if dora:
            tensors |= module.by_layer(MAGNITUDE, module.fuse([_magnitude(run, folder) for folder in module.folders]))
    # A module with n adapted kernels has rank n r; its alpha keeps the scale.
    counts = {module.last_name: n for module in extended if (n := len(_adapted(module, run.adapter))) > 1}
    alpha_of = lambda rank: integral(adapter.scale * (rank**0.5 if rank_stabilized else rank))  # noqa: E731
    fields = {
        "r": adapter.rank,
        "lora_alpha": alpha_of(adapter.rank),
        "rank_pattern": {name: adapter.rank * n for name, n in counts.items()},
        "alpha_pattern": {name: alpha_of(adapter.rank * n) for name, n in counts.items()},
        "target_modules": target_modules(extended, match),
        "lora_dropout": adapter.dropout,
        "bias": "none",
        "fan_in_fan_out": False,
        "use_rslora": rank_stabilized,
        "use_dora": dora,
    }
    return fields, tensors


def _magnitude(run: TrainedRun, folder: str) -> np.ndarray:
    """Return the magnitude [layers, out] of a dense layer; without an adapter, the norm of its kernel's columns."""
    if f"{folder}/magnitude" in run.adapter:
        return run.adapter[f"{folder}/magnitude"]
    return np.linalg.norm(run.weights[f"{folder}/kernel"].astype(np.float32), axis=-2)


def _adapted(module: Module, factors: Tensors) -> list[str]:
    """Return the paths of a module's dense layers that have an adapter."""
    return [folder for folder in module.folders if f"{folder}/lora_a" in factors]


def to_peft(module: Module, factors: Tensors) -> dict[str, np.ndarray]:
    """Return the tensors of a module's adapter in all layers: A [k r, in] and B [out, k r].

    Args:
        module: The module.
        factors: lora_a [layers, in, r] and lora_b [layers, r, out] by path.
    """
    adapted = _adapted(module, factors)
    a = np.concatenate([factors[f"{folder}/lora_a"] for folder in adapted], axis=-1)
    layers, total = a.shape[0], a.shape[-1]
    rank = total // len(adapted)
    width = factors[f"{adapted[0]}/lora_b"].shape[-1]  # kernels that are fused have the same width
    blocks = {folder: np.zeros((layers, total, width), a.dtype) for folder in module.folders}
    for i, folder in enumerate(adapted):
        blocks[folder][:, i * rank : (i + 1) * rank] = factors[f"{folder}/lora_b"]
    b = module.fuse(list(blocks.values()))
    return {**module.by_layer(A, a.swapaxes(1, 2)), **module.by_layer(B, b.swapaxes(1, 2))}


def _read(adapter: PeftAdapter, match: FamilyMatch) -> ConvertedAdapter:
    """Read LoRA into one rank and one scale: smaller ranks are padded with zeros, other scales multiply B."""
    settings = read_settings(adapter)
    factors: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    leaves: dict[str, np.ndarray] = {}
    for module in extended_modules(adapter, match, (A, B, MAGNITUDE) if settings.dora else (A, B)):
        a, b = _read_factors(module, settings, adapter)
        split = dict(zip(module.folders, split_ranks(a, module.split(b)), strict=True))
        factors |= {folder: pair for folder, pair in split.items() if settings.dora or pair[0].shape[-1]}
        if settings.dora:
            magnitudes = module.stack(adapter, MAGNITUDE, module.shape[:1])
            for folder, magnitude in zip(module.folders, module.split(magnitudes), strict=True):
                leaves[f"{folder}/magnitude"] = magnitude
    rank = max(a.shape[-1] for a, _ in factors.values())
    for folder, (a, b) in factors.items():
        missing = rank - a.shape[-1]
        leaves[f"{folder}/lora_a"] = np.pad(a, ((0, 0), (0, 0), (0, missing)))
        leaves[f"{folder}/lora_b"] = np.pad(b, ((0, 0), (0, missing), (0, 0)))
    method = {
        "name": "dora" if settings.dora else "lora",
        "rank": rank,
        "alpha": settings.scale_of("") * (rank**0.5 if settings.rank_stabilized else rank),
        "targets": layer_names(factors),
        **({"rank_stabilized": True} if settings.rank_stabilized else {}),
        **({"dropout": settings.dropout} if settings.dropout else {}),
    }
    return ConvertedAdapter(method, leaves)


def _read_factors(module: Module, settings: LoraSettings, adapter: PeftAdapter) -> tuple[np.ndarray, np.ndarray]:
    """Return A [layers, in, R] and B [layers, R, out] of a module, padded to its largest rank R and rescaled."""
    ranks = [settings.rank_of(name) for name in module.names]
    a = np.zeros((module.layers, module.shape[1], max(ranks)), np.float32)
    b = np.zeros((module.layers, max(ranks), module.shape[0]), np.float32)
    for layer, (name, rank) in enumerate(zip(module.names, ranks, strict=True)):
        factor = np.float32(settings.scale_of(name) / settings.scale_of(""))
        a[layer, :, :rank] = adapter.tensor(module.keys(A)[layer], (rank, module.shape[1])).T
        b[layer, :rank] = factor * adapter.tensor(module.keys(B)[layer], (module.shape[0], rank)).T
    return a, b


def split_ranks(a: np.ndarray, blocks: Sequence[np.ndarray]) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return A and B of each kernel of a module with the ranks that it uses: the inverse of stacking them.

    A rank whose B is zero for one kernel but not for another belongs to the other alone. A rank whose B is zero for all
    kernels is untrained, and every kernel keeps it.

    Args:
        a: A of the module, [layers, in, R].
        blocks: B of each kernel, [layers, R, out].
    """
    used = np.array([(b != 0).any((0, 2)) for b in blocks])  # [kernels, R]
    kept = used | ~used.any(0)
    return [(a[:, :, ranks], b[:, ranks]) for ranks, b in zip(kept, blocks, strict=True)]


def read_settings(adapter: PeftAdapter) -> LoraSettings:
    """Return the settings in adapter_config.json. Raises ConfigError for any option that is not supported."""
    fields = adapter.parsed_fields()
    initialization = fields.get("init_lora_weights")
    if initialization not in _INITIALIZATIONS:
        raise fields.unsupported(
            "init_lora_weights",
            initialization,
            "it changes the base's weights. Fix: save the adapter with path_initial_model_for_weight_conversion.",
        )
    if fields.get("bias") not in (None, "none"):
        raise fields.unsupported(
            "bias", fields.get("bias"), "adapters with trained biases are not read. Fix: merge it with peft."
        )
    settings = LoraSettings(
        rank=fields.positive_integer("r"),
        alpha=fields.positive_number("lora_alpha"),
        ranks=_patterns(fields, "rank_pattern", Fields.positive_integer),
        alphas=_patterns(fields, "alpha_pattern", Fields.positive_number),
        rank_stabilized=fields.flag("use_rslora"),
        dropout=fields.number("lora_dropout", 0.0),
        dora=fields.flag("use_dora"),
    )
    check_unread_fields(fields, _IRRELEVANT)
    return settings


def _patterns(fields: Fields, name: str, read: Callable[[Fields, str], Any]) -> dict[str, Any]:
    group = fields.group(name)
    if group is None:
        return {}
    for pattern in group.values:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ConfigError(
                f"{fields.where}: {name}: {pattern!r} is not a regular expression ({error}). Fix: copy the adapter "
                "again."
            ) from None
    return {pattern: read(group, pattern) for pattern in group.values}


LORA = PeftMethod("LORA", ("lora", "dora"), _export, _read)
