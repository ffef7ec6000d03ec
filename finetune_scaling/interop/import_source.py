"""The source of a model import: a public model that was found and checked, with none of its weights read."""

import dataclasses
import logging
from pathlib import Path

from finetune_scaling.data.tokenizers.hugging_face import (
    HuggingFaceTokenizer,
    has_tokenizer,
    load_hugging_face_tokenizer,
)
from finetune_scaling.files import sha256
from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.hub import Found, find, find_config
from finetune_scaling.interop.hugging_face_model import CONFIG, check_tensors, read_family, read_fields
from finetune_scaling.interop.weights.safetensors_reader import WeightFiles, weight_files
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.sharding.processes import run_on_primary

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class ImportSource:
    """A public model: where its files are, its family and config, and its tokenizer if it has one."""

    found: Found
    family: Family
    config: ModelConfig
    tokenizer: HuggingFaceTokenizer | None
    tokenizer_directory: Path

    @property
    def directory(self) -> Path:
        return self.found.directory

    @property
    def tokenizer_sha256(self) -> str | None:
        return self.tokenizer.digest if self.tokenizer else None

    @property
    def config_sha256(self) -> str:
        return sha256(self.directory / CONFIG)

    def weight_stamps(self) -> dict[str, list[int]]:
        """Return the size and modification time of each weight file, which identify it without reading it."""
        return {file.name: [(stat := file.stat()).st_size, stat.st_mtime_ns] for file in weight_files(self.directory)}


def read_source_config(source: str) -> ModelConfig:
    """Return the config of a public model; of a name on the hub, only config.json is fetched.

    Raises as `open_source` does.
    """
    return read_family(find_config(source).directory)[1]


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
    name, directory, revision, commit = run_on_primary(lambda: _plain(find(source)))
    found = Found(name, Path(directory), revision, commit)
    family, config = read_family(found.directory)
    with WeightFiles.open(found.directory) as files:
        check_tensors(files, family, config)
    tokenizer_directory = Path(tokenizer or found.directory)
    if tokenizer or has_tokenizer(tokenizer_directory):
        loaded = load_hugging_face_tokenizer(tokenizer_directory, read_fields(found.directory))
        return ImportSource(found, family, config, loaded, tokenizer_directory)
    log.warning(
        "%s: has no tokenizer. Fix: import it with --tokenizer=DIR, or give each run on this base "
        "--config.tokenizer=DIR.",
        found.directory,
    )
    return ImportSource(found, family, config, None, tokenizer_directory)


def _plain(found: Found) -> list[str | None]:
    return [found.name, str(found.directory), found.revision, found.commit]
