"""BLEURT, in a separate environment: python -m finetune_scaling.evaluate --metrics=configs/metrics/bleurt.py:DIR ...

Argument: the directory of an unpacked checkpoint, such as BLEURT-20 (listed at
https://github.com/google-research/bleurt). The package is not on the package index: pip fetches it from its repository,
at the commit given here.
"""

from ml_collections import ConfigDict

COMMIT = "cebe7e6f996b40910cfaa520a63db47807e3bf5c"


def get_config(checkpoint: str = "BLEURT-20") -> ConfigDict:
    return ConfigDict(
        {
            "name": "bleurt",
            "command": ("{python}", "{adapters}/bleurt_adapter.py", "--model={model}", "--batch-size={batch_size}"),
            "requirements": (f"bleurt @ git+https://github.com/google-research/bleurt@{COMMIT}",),
            "model": checkpoint,
            "needs_sources": False,
            "batch_size": 32,
        }
    )
