"""The format of PEFT adapter directories, and the interface of a method that can be converted from and to it."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load_file

from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import read_json_object
from finetune_scaling.interop.families.config_json import Fields
from finetune_scaling.interop.families.matching_family import FamilyMatch
from finetune_scaling.interop.weights.run_weights import TrainedRun
from finetune_scaling.interop.weights.safetensors_writer import DTYPES
from finetune_scaling.runs.run_directory import ADAPTER_CONFIG

CONFIG, WEIGHTS = ADAPTER_CONFIG, "adapter_model.safetensors"

Tensors = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PeftAdapter:
    """The content of an adapter directory.

    Attributes:
        fields: The fields of adapter_config.json.
        tensors: The tensors of adapter_model.safetensors by name, float32.
        where: The directory, for messages.
    """

    fields: Mapping[str, Any]
    tensors: Tensors
    where: str = ""

    @property
    def weights(self) -> str:
        """The path of the weights, for messages."""
        return f"{self.where}/{WEIGHTS}"

    def parsed_fields(self) -> Fields:
        """Return checked access to the fields."""
        return Fields(self.fields, f"{self.where}/{CONFIG}")

    def tensor(self, name: str, expected: tuple[int, ...]) -> np.ndarray:
        """Return a tensor. Raises CheckpointError where it is missing or has another shape."""
        if name not in self.tensors:
            raise CheckpointError(f"{self.weights}: tensor {name} is missing. Fix: copy the adapter again.")
        if self.tensors[name].shape != expected:
            raise CheckpointError(
                f"{self.weights}: tensor {name} has shape {list(self.tensors[name].shape)}, but {CONFIG} and the base "
                f"imply {list(expected)}. Fix: give --base=RUN the base of this adapter."
            )
        return self.tensors[name]


@dataclasses.dataclass(frozen=True)
class ConvertedAdapter:
    """An adapter in our format: the `method` block of a run config, and the trained leaves by path, float32."""

    method: Mapping[str, Any]
    leaves: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class PeftMethod:
    """A tuning method that PEFT has too.

    Attributes:
        peft_type: Its name in adapter_config.json.
        names: Our names of the methods that are exported as this type.
        export: Return the fields specific to the type, and the tensors, of a run whose base matches a family.
        read: Convert an adapter on a base that matches a family. Raises ConfigError, naming the field, for any
            option that is not supported, and CheckpointError where the tensors do not belong to the base.
    """

    peft_type: str
    names: tuple[str, ...]
    export: Callable[[TrainedRun, FamilyMatch], tuple[dict[str, Any], Tensors]]
    read: Callable[[PeftAdapter, FamilyMatch], ConvertedAdapter]


# Fields that record how an adapter was made; they do not change what it computes.
_IRRELEVANT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_type", "peft_version", "revision", "task_type"}
)


def check_unread_fields(fields: Fields, irrelevant: Iterable[str]) -> None:
    """Raise ConfigError for a field that is set but was not read: it may change what the adapter computes."""
    for name, value in fields.values.items():
        known = name in _IRRELEVANT or name in irrelevant or fields.was_read(name)
        if not known and value not in (None, False, [], {}, ""):
            raise ConfigError(
                f"{fields.where}: {name} = {value!r} is not supported. Fix: train without it, or merge the adapter "
                "with peft and import the model."
            )


def read_peft_adapter(directory: Path) -> PeftAdapter:
    """Read an adapter directory.

    Raises:
        CheckpointError: A file is missing or damaged, or a tensor is quantized or not finite.
        WorkdirError: adapter_config.json is not a JSON object.
    """
    fields = read_json_object(_existing(directory / CONFIG), fix="copy it again")
    return PeftAdapter(fields, _read_tensors(_existing(directory / WEIGHTS)), str(directory))


def _existing(file: Path) -> Path:
    if file.is_file():
        return file
    fix = "name the adapter's directory"
    if adapters := sorted(entry.parent.name for entry in file.parent.glob(f"*/{CONFIG}")):
        fix = f"name the directory of one adapter: {', '.join(adapters)}"
    if file.with_suffix(".bin").is_file():
        fix = "load it with peft and save it (save_pretrained writes safetensors); pickled weights (.bin) are not read"
    raise CheckpointError(f"{file}: no such file. Fix: {fix}.")


def _read_tensors(file: Path) -> dict[str, np.ndarray]:
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file}: not a valid safetensors file ({error}). Fix: copy it again.") from error
    for name, value in tensors.items():
        if value.dtype.name not in DTYPES:
            raise CheckpointError(
                f"{file}: tensor {name} has dtype {value.dtype}, not float32, bfloat16 or float16. Fix: save the "
                "adapter without quantization."
            )
        if not np.isfinite(value.astype(np.float32)).all():
            raise CheckpointError(f"{file}: tensor {name} has values that are not finite. Fix: copy it again.")
    return {name: value.astype(np.float32) for name, value in tensors.items()}
