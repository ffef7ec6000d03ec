"""The model ladder: the five sizes of arXiv 2402.17193 (Table 1, vocabulary 128,000) and eight small ones.

Small sizes are named after their non-embedding parameters, which grow by a factor of about 2.9. All are multi-query
with ffn_dim = 4 model_dim.
"""

from collections.abc import Mapping
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.models.config import ModelConfig

PAPER_VOCABULARY = 128_000


def _shape(layers: int, heads: int, head_dim: int) -> dict[str, int]:
    model_dim = heads * head_dim
    return {
        "layers": layers,
        "model_dim": model_dim,
        "heads": heads,
        "kv_heads": 1,
        "head_dim": head_dim,
        "ffn_dim": 4 * model_dim,
    }


LADDER: dict[str, dict[str, int]] = {
    "30k": _shape(layers=2, heads=2, head_dim=16),  # 30,816 non-embedding parameters
    "100k": _shape(layers=3, heads=3, head_dim=16),  # 101,568
    "300k": _shape(layers=5, heads=4, head_dim=16),  # 297,344
    "800k": _shape(layers=6, heads=3, head_dim=32),  # 811,680
    "2m": _shape(layers=10, heads=4, head_dim=32),  # 2,377,088
    "6m": _shape(layers=12, heads=3, head_dim=64),  # 6,490,560
    "20m": _shape(layers=14, heads=5, head_dim=64),  # 20,648,640
    "60m": _shape(layers=16, heads=8, head_dim=64),  # 59,777,536
    "1b": _shape(layers=16, heads=8, head_dim=256),  # 1,218,480,128 in all at vocabulary 128,000
    "2b": _shape(layers=20, heads=10, head_dim=256),  # 2,188,956,160
    "4b": _shape(layers=24, heads=12, head_dim=256),  # 3,601,935,360
    "8b": _shape(layers=32, heads=16, head_dim=256),  # 8,107,724,800
    "16b": _shape(layers=40, heads=20, head_dim=256),  # 15,440,491,520
}


def model_config(block: Mapping[str, Any], vocab_size: int | None = None) -> ModelConfig:
    """Return the model of a config's `model` block: a size of the ladder by `name` and any overridden fields.

    Raises ConfigError for an unknown size or field.
    """
    fields = dict(configuration.plain(block))
    name = fields.pop("name", None)
    shape = configuration.choose(LADDER, name, "model.name") if name is not None else {}
    vocabulary = {} if vocab_size is None else {"vocab_size": vocab_size}
    return configuration.build(ModelConfig, {**shape, **vocabulary, **fields}, "model")
