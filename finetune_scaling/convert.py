"""Brings public models in, and runs out in the formats of others.

    python -m finetune_scaling.convert --from-hf=DIR_OR_NAME[@REVISION] --out=DIR
    python -m finetune_scaling.convert --checkpoint=RUN --to-hf=DIR [--step=N --dtype=bfloat16 --no-merge]
    python -m finetune_scaling.convert --checkpoint=RUN --to-peft=DIR
    python -m finetune_scaling.convert --from-peft=DIR --base=RUN --out=RUN [--config=FILE]

The model's files (config.json, safetensors, tokenizer) become the directory of a base that finetuning starts from:
--config.base.run=DIR --config.tokenizer=DIR/tokenizer. Nothing is unpickled, and no code of the model's is run. The
same command again goes on where it was stopped.
"""

import json
from typing import Any

from absl import flags
from ml_collections import config_flags

from finetune_scaling import command
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.sharding.mesh import ShardingConfig

_FROM_HF = flags.DEFINE_string(
    "from_hf", "", "A model in Hugging Face's format: a directory, or OWNER/NAME on the hub; @REVISION may follow."
)
_OUT = flags.DEFINE_string("out", "", "Where the result goes: a directory that is empty, or of the same conversion.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the stored parameters; default: the files' own."
)
_FSDP = flags.DEFINE_integer("fsdp", 1, "Devices that will divide the parameters, with files for each; -1: all.")
_TENSOR = flags.DEFINE_integer("tensor", 1, "Devices that heads, feed-forward and vocabulary will be divided over.")
_TOKENIZER = flags.DEFINE_string("tokenizer", "", "Directory of the model's tokenizer; default: the model's own.")
_PRETRAIN_TOKENS = flags.DEFINE_integer(
    "pretrain_tokens", None, "Tokens that the model has seen, for studies of that factor.", lower_bound=1
)

_CHECKPOINT = flags.DEFINE_string("checkpoint", "", "A run, or one of its checkpoints, that is to leave.")
_STEP = flags.DEFINE_integer(
    "step", None, "The run's or base's checkpoint; default: the best one, of a base the newest."
)
_TO_HF = flags.DEFINE_string("to_hf", "", "Writes the model there, as transformers' AutoModelForCausalLM reads it.")
_TO_PEFT = flags.DEFINE_string("to_peft", "", "Writes the adapter there (LoRA, soft prompt), as PEFT reads it.")
_MERGE = flags.DEFINE_boolean("merge", True, "Whether --to-hf's model has LoRA in it; --no-merge: base and adapter.")
_FROM_PEFT = flags.DEFINE_string("from_peft", "", "Directory of a PEFT adapter (LoRA, soft prompt) that is to come in.")
_BASE = flags.DEFINE_string("base", "", "The run that the adapter stands on: a base, or a converted public model.")
_CONFIG = config_flags.DEFINE_config_file(
    "config", help_string="Config of a finetuning run: the task that the adapter is scored on, and trained on with."
)

_FLAGS: dict[str, tuple[flags.FlagHolder, ...]] = {
    "from_hf": (_OUT, _DTYPE, _FSDP, _TENSOR, _TOKENIZER, _PRETRAIN_TOKENS),
    "from_peft": (_BASE, _STEP, _OUT, _CONFIG),
    "checkpoint": (_STEP, _TO_HF, _TO_PEFT, _MERGE, _DTYPE),
}


def main() -> None:
    """Converts and prints the main figures as one JSON line."""
    figures = {"from_hf": _bring_in, "from_peft": _bring_in_adapter, "checkpoint": _write_out}[_direction()]()
    print(json.dumps(figures))


def _direction() -> str:
    """The flag that says what is converted. Raises ConfigError where there is none, or a flag that it does not know."""
    values = flags.FLAGS
    given = [name for name in _FLAGS if values[name].value]
    if len(given) != 1:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in _FLAGS)
        raise ConfigError(f"say what to convert by one of {known}; --help tells what they are")
    known_flags = {flag.name for flag in _FLAGS[given[0]]}
    for flag in (flag for group in _FLAGS.values() for flag in group):
        if values[flag.name].present and flag.name not in known_flags:
            raise ConfigError(
                f"--{flag.name.replace('_', '-')} is not for --{given[0].replace('_', '-')}; leave one of them out"
            )
    return given[0]


def _bring_in() -> dict[str, Any]:
    sharding = ShardingConfig(_FSDP.value, _TENSOR.value)
    out, tokenizer = command.required(_OUT), _TOKENIZER.value
    return import_model(ModelImport(_FROM_HF.value, out, _DTYPE.value, sharding, tokenizer, _PRETRAIN_TOKENS.value))


def _bring_in_adapter() -> dict[str, Any]:
    config = command.read_config(_CONFIG) if _CONFIG.value else {}
    return import_adapter(
        AdapterImport(_FROM_PEFT.value, command.required(_BASE), command.required(_OUT), _STEP.value, config)
    )


def _write_out() -> dict[str, Any]:
    if not (_TO_HF.value or _TO_PEFT.value):
        raise ConfigError(
            "--checkpoint is to go somewhere: give --to-hf=DIR for the model, --to-peft=DIR for an adapter"
        )
    return export_run(
        RunExport(_CHECKPOINT.value, _STEP.value, _TO_HF.value, _TO_PEFT.value, _MERGE.value, _DTYPE.value)
    )


if __name__ == "__main__":
    command.run(main)
