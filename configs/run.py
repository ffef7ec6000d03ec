"""The config of an existing run, to resume or repeat it: --config=configs/run.py:RUN.

Fields can be changed on the command line as for any config, unless the run has been trained with them.
"""

from ml_collections import ConfigDict

from finetune_scaling.runs.run_directory import RunDirectory


def get_config(run: str) -> ConfigDict:
    """run: the run directory."""
    return ConfigDict(RunDirectory(run).config)
