"""MetricX-24: python -m finetune_scaling.evaluate --metrics=configs/metrics/metricx.py:CHECKOUT ...

Argument: a checkout of https://github.com/google-research/metricx, which is not a package, and after a comma the model,
a name on the Hugging Face hub or a directory. (The package index has an unrelated project of that name: do not install
it.)
"""

from ml_collections import ConfigDict


def get_config(argument: str = "metricx") -> ConfigDict:
    repository, _, model = argument.partition(",")
    adapter = ("{python}", "{adapters}/metricx_adapter.py", f"--repository={repository}")
    return ConfigDict(
        {
            "name": "metricx",
            "command": (*adapter, "--model={model}", "--batch-size={batch_size}"),
            "requirements": ("transformers[torch]==4.30.2", "sentencepiece==0.1.99", "protobuf<4", "numpy<2"),
            "model": model or "google/metricx-24-hybrid-large-v2p6",
            "lower_is_better": True,
            "batch_size": 8,
        }
    )
