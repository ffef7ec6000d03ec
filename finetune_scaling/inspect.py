"""Show the content of a directory: python -m finetune_scaling.inspect PATH [--json]

PATH is a checkpoint, a run or base model (finished or in progress), a study, a tokenizer or a prepared corpus, local or
in an object store (gs://bucket/...). Only small files are read, no arrays; nothing is changed or locked.
"""

from absl import flags

from finetune_scaling import command
from finetune_scaling.inspection.directory import inspect
from finetune_scaling.inspection.formatting import format_inspection
from finetune_scaling.strict_json import format_json

_JSON = flags.DEFINE_boolean("json", False, "Print the content as JSON only.")


def main(path: str) -> None:
    """Print the content of `path`."""
    found = inspect(path)
    print(format_json(found) if _JSON.value else format_inspection(found))


if __name__ == "__main__":
    command.run(main, operand="PATH")
