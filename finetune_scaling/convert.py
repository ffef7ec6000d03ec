"""Brings public models in: python -m finetune_scaling.convert --from-hf=DIR_OR_NAME[@REVISION] --out=DIR

The model's files (config.json, safetensors, tokenizer) become the directory of a base that finetuning starts from:
--config.base.run=DIR --config.tokenizer=DIR/tokenizer. Nothing is unpickled, and no code of the model's is run. The
same command again goes on where it was stopped.
"""

import json

from absl import flags

from finetune_scaling import command
from finetune_scaling.interop.conversion import Conversion, convert
from finetune_scaling.sharding.mesh import ShardingConfig

_FROM_HF = flags.DEFINE_string(
    "from_hf", "", "A model in Hugging Face's format: a directory, or OWNER/NAME on the hub; @REVISION may follow."
)
_OUT = flags.DEFINE_string("out", "", "Where the result goes: a directory that is empty, or of the same conversion.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the stored parameters; default: the files' own."
)
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that the parameters are divided over while converting; -1: all.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that heads, feed-forward and vocabulary are divided over.")


def main() -> None:
    """Converts and prints the main figures as one JSON line."""
    sharding = ShardingConfig(_FSDP.value, _TENSOR.value)
    record = convert(Conversion(command.required(_FROM_HF), command.required(_OUT), _DTYPE.value, sharding))
    print(json.dumps(record))


if __name__ == "__main__":
    command.run(main)
