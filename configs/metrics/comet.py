"""COMET, in a separate environment: python -m finetune_scaling.evaluate --metrics=bleu,configs/metrics/comet.py ...

Argument: the name of a model that unbabel-comet downloads, or the path of a checkpoint file.
"""

from ml_collections import ConfigDict


def get_config(model: str = "Unbabel/wmt22-comet-da") -> ConfigDict:
    return ConfigDict(
        {
            "name": "comet",
            "command": ("{python}", "{adapters}/comet_adapter.py", "--model={model}", "--batch-size={batch_size}"),
            "requirements": ("unbabel-comet==2.2.7", "setuptools<81"),  # comet imports pkg_resources
            "model": model,
            "batch_size": 16,
        }
    )
