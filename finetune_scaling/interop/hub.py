"""Models on the Hugging Face hub: fetch their config, safetensors and tokenizer, never pickles or code.

An interrupted download resumes, and a cached model needs no network.
"""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from finetune_scaling.data.tokenizers.hugging_face import GENERATION_CONFIG, OTHER_TOKENIZER_FILES, TOKENIZER_FILES
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.hugging_face_model import check_no_adapter
from finetune_scaling.interop.weights.safetensors_reader import INDEX, WEIGHTS, indexed_files, weight_files
from finetune_scaling.messages import describe_error
from finetune_scaling.paths import user_path
from finetune_scaling.runs.run_directory import ADAPTER_CONFIG

_CONFIG = "config.json"
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class UnreachableError(CheckpointError):
    """The hub cannot be reached, and the model is not cached."""


class ModelLocation(NamedTuple):
    """A model's local directory; revision and commit are None unless it was fetched from the hub."""

    name: str
    directory: str
    revision: str | None = None
    commit: str | None = None


def fetch_files(source: str) -> ModelLocation:
    """Return the directory of a model, DIR or NAME[@REVISION]; of a model on the hub, fetch all but the weights.

    Raises:
        CheckpointError: The model does not exist, is gated, has an adapter, or cannot be reached.
    """
    tokenizer = (*TOKENIZER_FILES, *OTHER_TOKENIZER_FILES)
    found = _find(source, [_CONFIG, ADAPTER_CONFIG, GENERATION_CONFIG, INDEX, *tokenizer])
    if found.commit is not None:
        check_no_adapter(Path(found.directory))
    return found


def fetch_weights(found: ModelLocation) -> None:
    """Fetch the weights of a model on the hub. Raises CheckpointError as `fetch_files`, or if it has no safetensors."""
    if found.commit is None:
        return
    _fetch(found.name, found.commit, [WEIGHTS])
    index = Path(found.directory) / INDEX  # some models have a second copy of their weights, which it does not name
    if index.is_file() and not (index.parent / WEIGHTS).is_file():
        _fetch(found.name, found.commit, indexed_files(index))
    weight_files(Path(found.directory))


def fetch_config(source: str) -> ModelLocation:
    """Fetch config.json alone, for the shape of a model; raises as `fetch_files` does."""
    return _find(source, [_CONFIG])


def _find(source: str, files: Sequence[str]) -> ModelLocation:
    source = user_path(source)
    if Path(source).is_dir():
        return ModelLocation(str(Path(source).resolve()), source)
    name, _, revision = source.partition("@") if source.count("@") == 1 else (source, "", "")
    if Path(name).is_dir():
        raise CheckpointError(f"{source}: {name} is a directory, which has no revisions. Fix: remove @{revision}.")
    if _NAME.fullmatch(name) is None:
        raise CheckpointError(
            f"{source}: no such directory. Fix: name one, or a model on the hub: OWNER/NAME[@REVISION]"
        )
    directory = _fetch(name, revision or None, files)
    return ModelLocation(name, directory, revision or None, Path(directory).name)


def _fetch(name: str, revision: str | None, files: Sequence[str]) -> str:
    """Fetch the files that the model has; return their local directory."""
    hub = _library()
    try:
        return hub.snapshot_download(name, revision=revision, allow_patterns=list(files))
    except Exception as error:
        raise _user_error(hub.errors, name, revision, error) from error


def _user_error(errors: Any, name: str, revision: str | None, error: Exception) -> CheckpointError:
    if isinstance(error, errors.LocalEntryNotFoundError):
        return UnreachableError(
            f"{name}: is not a directory, and the hub cannot be reached ({type(error.__cause__).__name__}). Fix: check "
            "the name, the network and HF_HUB_OFFLINE, or fetch the model elsewhere and name its directory."
        )
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{name}: is gated. Fix: accept the agreement on the model's page, then log in with `hf auth login` or set "
            "HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{name}: has no revision {revision!r}. Fix: use a branch or tag that its page lists.")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return CheckpointError(
            f"{name}: is neither a directory nor a model on the hub that you can access. Fix: check the name "
            "(OWNER/NAME); for a private model, log in with `hf auth login`."
        )
    return CheckpointError(
        f"{name}: could not be fetched ({describe_error(error)}). Fix: run the same command again; the "
        "download resumes."
    )


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError(
            "models on the hub need another package. Fix: pip install 'finetune-scaling[hub]', or name a directory."
        ) from error
    return huggingface_hub
