"""The source of a model import: a public model that was found and checked, with none of its weights read."""

import dataclasses
import logging
from pathlib import Path
from typing import Any

from finetune_scaling.data.tokenizers.hugging_face import (
    HuggingFaceTokenizer,
    has_other_tokenizer,
    has_tokenizer,
    load_hugging_face_tokenizer,
    read_model_fields,
)
from finetune_scaling.files import sha256
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.hub import ModelLocation, fetch_config, fetch_files, fetch_weights
from finetune_scaling.interop.hugging_face_model import CONFIG, open_model, read_family
from finetune_scaling.interop.weights.safetensors_reader import WeightFiles
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.sharding.processes import run_on_primary

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImportSource:
    """A public model: where it is, its family, config and weight files, and its tokenizer if it has one."""

    found: ModelLocation
    family: Family
    config: ModelConfig
    files: WeightFiles
    tokenizer: HuggingFaceTokenizer | None
    tokenizer_directory: Path

    @property
    def directory(self) -> Path:
        """The directory of config.json and the weight files."""
        return Path(self.found.directory)

    def fingerprint(self) -> dict[str, Any]:
        """Return digests of config.json and tokenizer, and sizes and modification times of the unread weight files."""
        return {
            "config_sha256": sha256(self.directory / CONFIG),
            "tokenizer_sha256": self.tokenizer.digest if self.tokenizer else None,
            "weights": {self._name(file): [file.stat().st_size, file.stat().st_mtime_ns] for file in self.files.paths},
        }

    def _name(self, file: Path) -> str:
        return file.relative_to(self.directory).as_posix()  # an index may name files in subdirectories


def read_source_config(source: str) -> ModelConfig:
    """Return the config of a public model; of a name on the hub, only config.json is fetched.

    Raises as `open_source` does.
    """
    return read_family(Path(fetch_config(source).directory))[1]


def open_source(source: str, tokenizer: str) -> ImportSource:
    """Find a public model and check its config, tensors and tokenizer; weights stay unread.

    Args:
        source: A directory, or NAME[@REVISION] on the hub.
        tokenizer: Directory of the tokenizer; empty for the model's own.

    Raises:
        CheckpointError: Files are missing or damaged, or do not belong together.
        ConfigError: The family or a field of config.json is not supported.
        DataError: The tokenizer is damaged or has more ids than the model has embeddings.
    """
    found = ModelLocation(*run_on_primary(lambda: fetch_files(source)))
    directory = Path(found.directory)
    tokenizer_directory = Path(tokenizer or directory)
    loaded = _load_tokenizer(tokenizer_directory, directory, required=bool(tokenizer))  # before gigabytes are fetched
    run_on_primary(lambda: fetch_weights(found))
    family, config, files = open_model(directory)
    return ImportSource(found, family, config, files, loaded, tokenizer_directory)


def _load_tokenizer(directory: Path, model: Path, *, required: bool) -> HuggingFaceTokenizer | None:
    """Return a tokenizer for the model in a directory, None if there is none. Raises as `open_source` does."""
    read_family(model)  # names a config.json that is missing or not supported
    if required or has_tokenizer(directory) or has_other_tokenizer(directory):
        return load_hugging_face_tokenizer(directory, read_model_fields(model))
    log.warning(
        "%s: has no tokenizer. Fix: import it with --tokenizer=DIR, or give each run on this base "
        "--config.tokenizer=DIR.",
        directory,
    )
    return None
