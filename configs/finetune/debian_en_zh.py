"""Finetune on English to Chinese package descriptions: debian_en_zh.py:800k,lora. Settings: task.py."""

import functools
import pathlib
import runpy

_task_config = runpy.run_path(str(pathlib.Path(__file__).with_name("task.py")))["task_config"]
get_config = functools.partial(_task_config, "debian_en_zh")
