"""The config of a run that is there, to go on with or to do again: --config=configs/run.py:RUN.

Fields may be changed on the command line as of any config, as long as nothing was trained with it yet.
"""

from ml_collections import ConfigDict

from finetune_scaling.configuration import without_unset
from finetune_scaling.runs.run_directory import RunDirectory


def get_config(run: str) -> ConfigDict:
    """run: its directory."""
    return ConfigDict(without_unset(RunDirectory(run).config))
