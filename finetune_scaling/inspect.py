"""Tells what is in a directory: python -m finetune_scaling.inspect PATH [--json]

PATH is a checkpoint, a run or base (in progress or done), a study, a tokenizer or a prepared corpus, on a local disk or
in an object store (gs://bucket/...). Only small files are read, no array; nothing is changed or locked.
"""

import json

from absl import flags

from finetune_scaling import command
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.inspection.formatting import format_inspection

_JSON = flags.DEFINE_boolean("json", False, "Print the same as JSON, and nothing else.")


def main(path: str) -> None:
    """Prints what is at `path`."""
    found = inspect(path)
    print(json.dumps(found, ensure_ascii=False) if _JSON.value else format_inspection(found))


if __name__ == "__main__":
    command.run(main, operand="PATH")
