"""Finetune on translation from artificial language A into B: grammar_translation.py:100k,lora. Settings: task.py."""

import functools
import pathlib
import runpy

_task_config = runpy.run_path(str(pathlib.Path(__file__).with_name("task.py")))["task_config"]
get_config = functools.partial(_task_config, "grammar_translation")
