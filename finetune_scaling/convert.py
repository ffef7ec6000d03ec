"""Import public models and PEFT adapters, and export runs in the formats of Hugging Face and PEFT.

    python -m finetune_scaling.convert --from-hf=DIR_OR_NAME[@REVISION] --out=DIR
    python -m finetune_scaling.convert --checkpoint=RUN --to-hf=DIR [--step=N --dtype=bfloat16 --no-merge]
    python -m finetune_scaling.convert --checkpoint=RUN --to-peft=DIR
    python -m finetune_scaling.convert --from-peft=DIR --base=RUN --out=RUN [--config=FILE]

An imported model is a base that finetuning starts from: --config.base.run=DIR --config.tokenizer=DIR/tokenizer. Nothing
is unpickled, and no code of the model is run. The same command resumes an interrupted import.
"""

from typing import Any

from absl import flags

from finetune_scaling import command
from finetune_scaling.command_flags import config_flag, integer_flag, path_flag, read_config, required
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.model_import import ModelImport, import_model
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.sharding.mesh import ShardingConfig
from finetune_scaling.strict_json import format_json

_FROM_HF = path_flag("from_hf", "Model in Hugging Face's format: a directory, or OWNER/NAME[@REVISION] on the hub.")
_OUT = path_flag("out", "Directory of the result: empty, or of the same import.")
_DTYPE = flags.DEFINE_enum(
    "dtype", None, ["float32", "bfloat16", "float16"], "Dtype of the stored parameters; default: that of the files."
)
_FSDP = integer_flag("fsdp", 1, "Devices over which files are sharded along axis fsdp; -1: all.")
_TENSOR = integer_flag("tensor", 1, "Devices over which files are sharded along axis tensor.")
_TOKENIZER = path_flag("tokenizer", "Directory of the model's tokenizer; default: the model's own.")
_PRETRAIN_TOKENS = integer_flag(
    "pretrain_tokens", None, "Number of tokens that the model was pretrained on.", lower_bound=1
)

_CHECKPOINT = path_flag("checkpoint", "The run, or one of its checkpoints, to export.")
_STEP = integer_flag("step", None, "Checkpoint of the run or base; default: the best one, for a base the newest.")
_TO_HF = path_flag("to_hf", "Directory for the model, which transformers loads.")
_TO_PEFT = path_flag("to_peft", "Directory for the adapter, which PEFT loads.")
_MERGE = flags.DEFINE_boolean(
    "merge", True, "Merge the adapter into the model of --to-hf; --no-merge: base and adapter."
)
_FROM_PEFT = path_flag("from_peft", "Directory of the PEFT adapter to import.")
_BASE = path_flag("base", "The run that the adapter extends: a base, or an imported public model.")
_CONFIG = config_flag("config", "Finetuning config whose task the adapter is evaluated and trained on.")

_FLAGS: dict[str, tuple[flags.FlagHolder, ...]] = {
    "from_hf": (_OUT, _DTYPE, _FSDP, _TENSOR, _TOKENIZER, _PRETRAIN_TOKENS),
    "from_peft": (_BASE, _STEP, _OUT, _CONFIG),
    "checkpoint": (_STEP, _TO_HF, _TO_PEFT, _MERGE, _DTYPE),
}


def main() -> None:
    """Convert and print a summary as one JSON line."""
    convert = {"from_hf": _import_model, "from_peft": _import_adapter, "checkpoint": _export_run}[_direction()]
    print(format_json(convert()))


def _direction() -> str:
    """Return the flag that selects the conversion. Raises ConfigError where there is none, or for a flag of another."""
    values = flags.FLAGS
    given = [name for name in _FLAGS if values[name].value]
    if len(given) != 1:
        known = ", ".join(f"--{name.replace('_', '-')}" for name in _FLAGS)
        raise ConfigError(f"give exactly one of {known}; see --help")
    own = {flag.name for flag in _FLAGS[given[0]]}
    others = [flag for group in _FLAGS.values() for flag in group if flag.name not in own]
    command.reject(others, f"does not apply to --{given[0].replace('_', '-')}")
    return given[0]


def _import_model() -> dict[str, Any]:
    sharding = ShardingConfig(_FSDP.value, _TENSOR.value)
    out, tokenizer = required(_OUT), _TOKENIZER.value
    return import_model(ModelImport(_FROM_HF.value, out, _DTYPE.value, sharding, tokenizer, _PRETRAIN_TOKENS.value))


def _import_adapter() -> dict[str, Any]:
    config = read_config(_CONFIG) if _CONFIG.value else {}
    return import_adapter(AdapterImport(_FROM_PEFT.value, required(_BASE), required(_OUT), _STEP.value, config))


def _export_run() -> dict[str, Any]:
    if not (_TO_HF.value or _TO_PEFT.value):
        raise ConfigError(
            "--checkpoint has no destination. Fix: give --to-hf=DIR for the model or --to-peft=DIR for the adapter."
        )
    return export_run(
        RunExport(_CHECKPOINT.value, _STEP.value, _TO_HF.value, _TO_PEFT.value, _MERGE.value, _DTYPE.value)
    )


if __name__ == "__main__":
    command.run(main, accelerator=True)
