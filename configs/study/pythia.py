"""The paper's questions on Pythia (Biderman et al., 2023): public models of eight sizes with their checkpoints.

Bases are downloaded from the hub (the extra hub) and converted when runs need them; pretraining tokens vary by
revision. Each size has 154 public checkpoints, 2^21 tokens per step. The models were pretrained mostly on English text,
so translation scores start low. See docs/studies.md.
"""

from ml_collections import ConfigDict

from finetune_scaling.studies.config_template import summarization, translation

TOKENS_PER_STEP = 2**21
STEPS = (1_000, 4_000, 16_000, 64_000, 143_000)  # the last is the end of pretraining, 300 billion tokens
# Layers, width and heads of config.json, and rows of the embedding, which are padded.
SIZES = {
    "70m": (6, 512, 8, 50_304),
    "160m": (12, 768, 12, 50_304),
    "410m": (24, 1024, 16, 50_304),
    "1b": (16, 2048, 8, 50_304),
    "1.4b": (24, 2048, 16, 50_304),
    "2.8b": (32, 2560, 32, 50_304),
    "6.9b": (32, 4096, 32, 50_432),
    "12b": (36, 5120, 40, 50_688),
}


def get_config() -> ConfigDict:
    factors = ("model", "pretrain")
    return ConfigDict(
        {
            "name": "pythia",
            "seeds": (0, 1, 2),
            "families": {"pythia": family()},
            "tasks": {
                "wmt14_en_de": translation("pythia", factors),
                "mlsum": summarization("pythia", factors),
            },
            "notes": ("Pythia's deduplicated models; grid, rates and batches are this study's own.",),
        }
    )


def family() -> dict:
    return {
        "public": {
            "source": "EleutherAI/pythia-{size}-deduped",
            "revisions": tuple(f"step{step}" for step in STEPS),
            "models": tuple(shape(*figures) for figures in SIZES.values()),
        },
        "sizes": tuple(SIZES),
        "held_out_sizes": ("12b",),
        "factor_size": "410m",
        "tokens": tuple(step * TOKENS_PER_STEP for step in STEPS),
        "held_out_tokens": (64_000 * TOKENS_PER_STEP,),
    }


def shape(layers: int, width: int, heads: int, rows: int) -> dict:
    return {
        "model_type": "gpt_neox",
        "vocab_size": rows,
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": 4 * width,
        "max_position_embeddings": 2048,
        "rotary_pct": 0.25,
        "use_parallel_residual": True,
        "tie_word_embeddings": False,
    }
