"""Models of the Hugging Face hub by name: their config, safetensors and tokenizer are fetched, and nothing else.

Pickles and code are never fetched. A download that broke off goes on where it was; what is in the hub's cache already
is not fetched again, also without a network.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from finetune_scaling.data.tokenizers.hugging_face import TOKENIZER_FILES
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.interop.weights.safetensors_reader import INDEX, WEIGHTS, indexed_files

_CONFIG = "config.json"
Wanted = Callable[[str, set[str], str | None], list[str]]
_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?")


class UnreachableError(CheckpointError):
    """The hub does not answer, and what is asked for was not fetched before."""


class Found(NamedTuple):
    """A model's directory here. commit: of the hub's repository; None for a directory that was named itself."""

    name: str
    directory: Path
    revision: str | None = None
    commit: str | None = None


def find(source: str) -> Found:
    """The directory of DIR or NAME[@REVISION], fetched where it is a name.

    Raises CheckpointError, naming the mend, where there is no such directory or model, it is gated, has no safetensors,
    or cannot be reached.
    """
    return _find(source, _wanted)


def find_config(source: str) -> Found:
    """The same with config.json alone, which tells of a model what may be wrong before gigabytes are fetched."""
    return _find(source, lambda *_: [_CONFIG])


def _find(source: str, wanted: Wanted) -> Found:
    """wanted: from a name, the files that are there and the revision to the files to fetch."""
    if Path(source).is_dir():
        return Found(str(Path(source).resolve()), Path(source))
    name, _, revision = source.partition("@") if source.count("@") == 1 else (source, "", "")
    if Path(name).is_dir():
        raise CheckpointError(f"{source}: a revision is for names on the hub, and {name} is a directory; leave it out")
    if _NAME.fullmatch(name) is None:
        raise CheckpointError(f"{source}: no such directory; name one, or a model on the hub: OWNER/NAME[@REVISION]")
    return _fetched(name, revision or None, wanted)


def _fetched(name: str, revision: str | None, wanted: Wanted) -> Found:
    hub = _library()
    try:
        info = hub.HfApi().model_info(name, revision=revision)
    except Exception as error:
        if not _is_unreachable(error):
            raise _explained(name, revision, error) from error
        return _cached(name, revision, error)
    there = {file.rfilename for file in info.siblings or ()}
    try:
        # By the revision's own name, which the cache then knows without a network, too.
        directory = Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted(name, there, revision)))
    except CheckpointError:
        raise
    except Exception as error:
        raise _explained(name, revision, error) from error
    return Found(name, directory, revision, directory.name)


def _wanted(name: str, there: set[str], revision: str | None) -> list[str]:
    """The files to fetch. Of weights those that the index names: some models have a second copy beside them."""
    if INDEX in there:
        index = Path(_library().hf_hub_download(name, INDEX, revision=revision))
        weights = {INDEX, *indexed_files(index)}
    else:
        weights = {WEIGHTS}
    if not weights <= there:
        pickles = sorted(file for file in there if file.endswith((".bin", ".pt", ".pth", ".ckpt")))
        told = f", but pickles ({', '.join(pickles[:1])}), which are not read: to open them is to run what they say"
        instead = told if pickles else ""
        raise CheckpointError(
            f"{name}: the hub has no {min(weights - there)} of it{instead}; take a revision that has them, or save "
            "the model as safetensors and name its directory"
        )
    return sorted(weights | ({_CONFIG, *TOKENIZER_FILES} & there))


def _cached(name: str, revision: str | None, error: Exception) -> Found:
    """What was fetched before, where the hub cannot be reached."""
    config = _library().try_to_load_from_cache(name, _CONFIG, revision=revision)
    if not isinstance(config, str):
        raise UnreachableError(
            f"{name}: is no directory here, and the hub cannot be reached ({type(error).__name__}); check the name and "
            "the network (and HF_HUB_OFFLINE), or fetch the model elsewhere and name its directory"
        ) from error
    return Found(name, Path(config).parent, revision, Path(config).parent.name)


def _is_unreachable(error: Exception) -> bool:
    """Whether nothing answered; the library's client for HTTP has its own classes, which differ by version."""
    offline = _library().errors.OfflineModeIsEnabled
    of_client = any(kind.__name__ == "TransportError" for kind in type(error).__mro__)
    return of_client or isinstance(error, offline | ConnectionError | TimeoutError)


def _explained(name: str, revision: str | None, error: Exception) -> Exception:
    errors = _library().errors
    told = " ".join(str(error).split())[:300]
    if isinstance(error, errors.GatedRepoError):
        return CheckpointError(
            f"{name}: its owner asks for an agreement first; accept it at the model's page, then log in: `hf auth "
            "login`, or set HF_TOKEN"
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return CheckpointError(f"{name}: has no revision {revision!r} on the hub; its page lists branches and tags")
    if isinstance(error, errors.RepositoryNotFoundError | errors.HFValidationError):
        return CheckpointError(
            f"{name}: is no directory here, and no model on the hub that you may see; check the name (OWNER/NAME), or "
            "log in where it is private: `hf auth login`"
        )
    if _is_unreachable(error) or isinstance(error, errors.HfHubHTTPError | OSError):
        return CheckpointError(
            f"{name}: could not be fetched ({type(error).__name__}: {told}); run the same command again, and it goes "
            "on where the download broke off"
        )
    return error


def _library() -> Any:
    try:
        import huggingface_hub
        import huggingface_hub.errors
    except ImportError as error:
        raise ConfigError(
            "names on the hub take a further package: pip install 'finetune-scaling[hub]'; or name a directory"
        ) from error
    return huggingface_hub
