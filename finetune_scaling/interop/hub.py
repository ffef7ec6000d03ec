"""Models on the Hugging Face hub: fetch their config, safetensors and tokenizer, never pickles or code.

An interrupted download resumes, and a cached model needs no network.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune_scaling.data.tokenizers.hugging_face import TOKENIZER_FILES
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.weights.safetensors_reader import INDEX, WEIGHTS, indexed_files

_CONFIG = "config.json"
FileSelection = Callable[[str, set[str], str | None], list[str]]  # name, existing files, revision -> files to fetch
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class UnreachableError(CheckpointError):
    """The hub cannot be reached, and the model is not cached."""


class Found(NamedTuple):
    """A model's local directory; revision and commit are None unless it was fetched from the hub."""

    name: str
    directory: Path
    revision: str | None = None
    commit: str | None = None


def find(source: str) -> Found:
    """Return the directory of a model, DIR or NAME[@REVISION]; fetch a model on the hub.

    Raises:
        CheckpointError: The model does not exist, is gated, has no safetensors, or cannot be reached.
    """
    return _find(source, _model_files)


def find_config(source: str) -> Found:
    """Fetch config.json alone, so that a model can be checked before its weights are fetched; raises as `find` does."""
    return _find(source, lambda *_: [_CONFIG])


def _find(source: str, select: FileSelection) -> Found:
    if Path(source).is_dir():
        return Found(str(Path(source).resolve()), Path(source))
    name, _, revision = source.partition("@") if source.count("@") == 1 else (source, "", "")
    if Path(name).is_dir():
        raise CheckpointError(f"{source}: {name} is a directory, which has no revisions. Fix: remove @{revision}.")
    if _NAME.fullmatch(name) is None:
        raise CheckpointError(
            f"{source}: no such directory. Fix: name one, or a model on the hub: OWNER/NAME[@REVISION]"
        )
    return _fetch(name, revision or None, select)


def _fetch(name: str, revision: str | None, select: FileSelection) -> Found:
    hub = _library()
    try:
        info = hub.HfApi().model_info(name, revision=revision)
    except Exception as error:
        if not _is_unreachable(error):
            raise _user_error(name, revision, error) from error
        return _cached(name, revision, error)
    existing = {file.rfilename for file in info.siblings or ()}
    try:
        # The cache can resolve the revision without a network later because it is fetched by this name.
        files = select(name, existing, revision)
        directory = Path(hub.snapshot_download(name, revision=revision, allow_patterns=files))
    except CheckpointError:
        raise
    except Exception as error:
        raise _user_error(name, revision, error) from error
    return Found(name, directory, revision, directory.name)


def _model_files(name: str, existing: set[str], revision: str | None) -> list[str]:
    """Return the files to fetch; weights are those in the index, because some models have a second copy of them."""
    if INDEX in existing:
        index = Path(_library().hf_hub_download(name, INDEX, revision=revision))
        weights = {INDEX, *indexed_files(index)}
    else:
        weights = {WEIGHTS}
    if not weights <= existing:
        pickles = sorted(file for file in existing if file.endswith((".bin", ".pt", ".pth", ".ckpt")))
        note = f" (it has {pickles[0]}, but pickles are not read, because unpickling executes code)" if pickles else ""
        raise CheckpointError(
            f"{name}: the hub has no {min(weights - existing)} of this model{note}. Fix: use a revision that has "
            "safetensors, or save the model as safetensors and name its directory."
        )
    return sorted(weights | ({_CONFIG, *TOKENIZER_FILES} & existing))


def _cached(name: str, revision: str | None, error: Exception) -> Found:
    """Return the cached model. Raises UnreachableError where there is none."""
    config = _library().try_to_load_from_cache(name, _CONFIG, revision=revision)
    if not isinstance(config, str):
        raise UnreachableError(
            f"{name}: is not a directory, and the hub cannot be reached ({type(error).__name__}). Fix: check the name, "
            "the network and HF_HUB_OFFLINE, or fetch the model elsewhere and name its directory."
        ) from error
    return Found(name, Path(config).parent, revision, Path(config).parent.name)


def _is_unreachable(error: Exception) -> bool:
    """Whether the hub did not answer; the HTTP client's exception classes differ by version."""
    offline = _library().errors.OfflineModeIsEnabled
    transport_error = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return transport_error or isinstance(error, offline | ConnectionError | TimeoutError)


def _user_error(name: str, revision: str | None, error: Exception) -> Exception:
    errors = _library().errors
    message = " ".join(str(error).split())[:300]
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
    if _is_unreachable(error) or isinstance(error, errors.HfHubHTTPError | OSError):
        return CheckpointError(
            f"{name}: could not be fetched ({type(error).__name__}: {message}). Fix: run the same command again; the "
            "download resumes."
        )
    return error


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError(
            "models on the hub need another package. Fix: pip install 'finetune-scaling[hub]', or name a directory."
        ) from error
    return huggingface_hub
