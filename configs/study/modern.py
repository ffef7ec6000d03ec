"""The same grid on a current family: the base models of Qwen 3 (2025), 0.6B to 14B parameters.

It has five dense sizes under one licence (Apache-2.0), pretrained on text in 119 languages, including German and
Chinese. All sizes were pretrained on the same 36 trillion tokens, and no intermediate checkpoints are public, so
pretraining data is not a factor.
"""

from ml_collections import ConfigDict

from finetune_scaling.studies.config_template import summarization, translation

TOKENS = 36 * 10**12  # from the technical report
# Layers, width, heads and feed-forward width of config.json, and whether the embeddings are tied.
SIZES = {
    "0.6B": (28, 1024, 16, 3072, True),
    "1.7B": (28, 2048, 16, 6144, True),
    "4B": (36, 2560, 32, 9728, True),
    "8B": (36, 4096, 32, 12_288, False),
    "14B": (40, 5120, 40, 17_408, False),
}


def get_config() -> ConfigDict:
    return ConfigDict(
        {
            "name": "modern",
            "seeds": (0, 1, 2),
            "families": {"qwen3": family()},
            "tasks": {
                "wmt14_en_de": translation("qwen3", ("model",)),
                "wmt19_en_zh": translation("qwen3", ("model",), "wmt19_en_zh"),
                "mlsum": summarization("qwen3", ("model",)),
            },
            "notes": ("Qwen 3's base models; grid, rates and batches are this study's own.",),
        }
    )


def family() -> dict:
    return {
        "public": {
            "source": "Qwen/Qwen3-{size}-Base",
            "models": tuple(shape(*figures) for figures in SIZES.values()),
        },
        "sizes": tuple(SIZES),
        "held_out_sizes": ("14B",),
        "factor_size": "1.7B",
        "tokens": (TOKENS,),
    }


def shape(layers: int, width: int, heads: int, ffn: int, tied: bool) -> dict:
    return {
        "model_type": "qwen3",
        "vocab_size": 151_936,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": ffn,
        "max_position_embeddings": 32_768,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1_000_000.0,
        "tie_word_embeddings": tied,
    }
