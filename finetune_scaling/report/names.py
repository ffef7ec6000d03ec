"""How methods, factors and counts are called in tables, pictures and sentences."""

import numpy as np

METHOD_NAMES = {"full": "full tuning", "prompt": "prompt tuning", "lora": "LoRA"}
FACTOR_NAMES = {
    "model": "model size",
    "pretrain": "pretraining tokens",
    "pet": "PET size",
    "learning_rate": "learning rate",
}
X_NAMES = {
    "model": "parameters",
    "pretrain": "pretraining tokens",
    "pet": "prompt length or LoRA rank",
    "learning_rate": "learning rate",
}
UNITS = ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "K"))


def human(value: float) -> str:
    """A count as people write it: 1.2B, 84M, 8K, 600; powers of ten beyond."""
    if not np.isfinite(value):
        return "∞" if value > 0 else "-"
    if value >= 1e15:
        return f"{value:.1e}"
    for size, unit in UNITS:
        if value >= size * 0.9995:
            return f"{value / size:.3g}{unit}"
    return f"{value:.3g}"


def method_name(method: str) -> str:
    """A method's name in running text."""
    return METHOD_NAMES.get(method, method)
