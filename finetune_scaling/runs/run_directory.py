"""The directory of a run: its files, its state, and the lock that lets one process at a time work in it.

It may be a URL such as gs://bucket/run; files.py and lease.py describe the differences.
"""

import contextlib
import errno
import fcntl
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from finetune_scaling import configuration
from finetune_scaling.data.data_paths import absolute_path, with_absolute_data, without_data_paths
from finetune_scaling.data.task import load_task
from finetune_scaling.errors import InUseError, UserError, WorkdirError
from finetune_scaling.files import (
    Location,
    check_record,
    disk_errors,
    location,
    read_json,
    read_json_object,
    write_atomically,
    write_json_atomically,
)
from finetune_scaling.runs.lease import hold_lease
from finetune_scaling.strict_json import format_json

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"  # of a PEFT adapter's directory
ENVIRONMENT = "environment.json"
METRICS = "metrics.jsonl"
RESULT = "result.json"
FAILURE = "failure.json"  # of a study's run that failed
LOCK = ".lock"
CHECKPOINTS = "checkpoints"

# Fields that may change when a run resumes: paths (digests in checkpoints show whether base and tokenizer are the
# same), the mesh, implementations of attention and remat that compute the same, the buffer of batches, evaluators, and
# a profile.
_MAY_CHANGE = re.compile(
    r"base\.run|tokenizer|sharding(\..*)?|model\.(attention|remat)|batch\.buffer|evaluation\.evaluators(\..*)?"
    r"|logging\.profile_steps"
)

_PATHS = (("base", "run"), ("tokenizer",), ("corpus", "prepared"), ("pretrain", "corpus", "prepared"))

# Shapes of records, see check_shape
NUMBER = (int, float)
_SCORES = {"loss": NUMBER, "metrics": {"*": {"score!": NUMBER, "signature!": str}}}
EVALUATION_SHAPE = {
    **_SCORES,
    "untuned": _SCORES,
    "baselines": {"*": _SCORES},
    "splits": {"*": _SCORES},
}
_RESULT_SHAPE = {
    **dict.fromkeys(("loss", "dev_loss", "seconds"), NUMBER),
    **dict.fromkeys(("best_step", "finetune_examples", "parameters", "parameters_non_embedding", "tokens_seen"), int),
    "metrics": {"*": NUMBER},
    "tests": {"*": _SCORES},
    "evaluators": {"*": EVALUATION_SHAPE},
    "splits": {"*": {"digest!": str}},
}

RunState = Literal["done", "failed", "started", "waiting"]


class RunDirectory:
    """The files of one run. result.json is written last: its presence means that the run is finished."""

    def __init__(self, path: str | os.PathLike):
        self.path = location(path)

    @property
    def result(self) -> dict[str, Any] | None:
        """The result record; None until the run is finished. Raises WorkdirError if it is damaged."""
        file = self.path / RESULT
        if not file.exists():
            return None
        record = read_json_object(file, fix="restore an intact copy")
        check_record(file, record, _RESULT_SHAPE)
        return record

    @property
    def config(self) -> dict[str, Any]:
        """The config that the run was started with. Raises WorkdirError if this is not a run directory."""
        if not (self.path / CONFIG).exists():
            if (self.path / ADAPTER_CONFIG).exists():
                raise adapter_error(self.path)
            raise WorkdirError(
                f"{self.path}: not the directory of a run (it has no {CONFIG}). Fix: give a run directory"
            )
        config = read_json_object(self.path / CONFIG, fix="restore an intact copy, or choose another --workdir")
        if describes_public_model(config):
            raise public_model_error(self.path)
        return _with_prompt_attention(config, attends_to_input=False)  # as in older records, without the field

    def write_config(self, config: Mapping[str, Any]) -> None:
        """Write config.json, replacing a config with which nothing was trained yet. Raises as `check_config`.

        The paths of base, tokenizer and data are recorded as absolute ones.
        """
        self.check_config(config)
        recorded = with_absolute_paths(_with_prompt_attention(config, attends_to_input=True))
        if not ((self.path / CONFIG).exists() and configuration.equal(recorded, self.config)):
            write_json_atomically(self.path / CONFIG, recorded)

    def check_config(self, config: Mapping[str, Any]) -> None:
        """Raise WorkdirError that names the differing fields if something was trained here with another config.

        Data may be elsewhere: its digests are compared when a run resumes, and here if the run is finished. For an
        imported adapter (adapter_import.py), whose checkpoint has step 0, only the method must match.
        """
        trained = any((self.path / name).exists() for name in (METRICS, RESULT))
        if is_public_model(self.path):
            raise public_model_error(self.path)
        if not trained and not (self.path / CHECKPOINTS / "0").is_dir():
            return
        if not (self.path / CONFIG).exists():
            raise WorkdirError(f"{self.path}: has files of a run but no {CONFIG}. Fix: choose another --workdir")
        known, given = _with_defaults(self.config, _with_prompt_attention(config, attends_to_input=True))
        differing = _differing_fields(without_data_paths(known), without_data_paths(given))
        if not differing and (moved := _differing_fields(known, given)) and not self._has_data_of(config):
            differing = moved
        if not trained:
            differing = [name for name in differing if name.startswith("method.")]
        if differing:
            raise WorkdirError(
                f"{self.path}: holds a run of another config (they differ in {', '.join(differing[:8])}). "
                "Fix: choose another --workdir, or delete this one"
            )

    def _has_data_of(self, config: Mapping[str, Any]) -> bool:
        """Return whether the data of a config is that of the results; True until there are some."""
        from finetune_scaling.runs.run_config import read_run_config  # imports JAX, which reading a run does not need
        from finetune_scaling.runs.run_data import split_digest

        if (record := self.result) is None:
            return True
        if not (splits := record.get("splits")):  # an older run
            return False
        run_config = read_run_config(config)
        return all(split_digest(run_config, name) == split["digest"] for name, split in splits.items())

    def write_result(self, record: Mapping[str, Any]) -> None:
        """Write result.json, which marks the run as finished."""
        write_json_atomically(self.path / RESULT, configuration.plain(record))

    def metrics(self) -> list[dict[str, Any]]:
        """Return the valid lines of metrics.jsonl, without a last line that a kill truncated."""
        path = self.path / METRICS
        records = []
        for line in path.read_bytes().splitlines() if path.exists() else []:
            with contextlib.suppress(ValueError):  # of JSON or UTF-8
                record = json.loads(line)
                if isinstance(record, dict) and isinstance(record.get("step"), int) and _has_numbers(record):
                    records.append(record)
        return records

    def rewind_metrics(self, step: int) -> None:
        """Remove metrics of steps after `step`, which a resumed run writes again."""
        kept = [record for record in self.metrics() if record["step"] <= step]
        write_atomically(self.path / METRICS, "".join(format_json(record) + "\n" for record in kept))


def _has_numbers(record: Mapping[str, Any]) -> bool:
    return all(isinstance(value, int | float | None) for value in record.values())


def is_public_model(directory: str | os.PathLike) -> bool:
    """Return whether a directory's config.json describes a model in Hugging Face's format, supported or not."""
    file = location(directory) / CONFIG
    return file.is_file() and describes_public_model(read_json(file, fix="restore an intact copy"))


def describes_public_model(config: Any) -> bool:
    """Return whether the content of a config.json is that of a model in Hugging Face's format, not that of a run."""
    return isinstance(config, Mapping) and ("model_type" in config or "architectures" in config)


def public_model_error(directory: str | os.PathLike) -> WorkdirError:
    """Return the error about a model in Hugging Face's format where a run is needed."""
    return WorkdirError(
        f"{directory}: is a public model, not a run. Fix: convert it with `python -m finetune_scaling.convert "
        f"--from-hf={directory} --out=DIR`, and give DIR"
    )


def _with_defaults(*configs: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return configs of runs with absolute paths and the defaults of missing fields, of which None may differ.

    If one of them cannot be read (an older version may have written it), no defaults are filled in.
    """
    found: list[Mapping[str, Any]] = [with_absolute_paths(configuration.plain(config)) for config in configs]
    with contextlib.suppress(UserError):
        return list(map(_with_default_fields, found))
    return found


def _with_default_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    from finetune_scaling.runs.run_config import read_run_config  # imports JAX, which reading a run does not need

    fields = configuration.plain(read_run_config(config))
    return fields if fields["task"] is None else {**fields, "task": configuration.plain(load_task(fields["task"]))}


def _differing_fields(known: Mapping[str, Any], given: Mapping[str, Any]) -> list[str]:
    return [name for name in configuration.differing_fields(known, given) if not _MAY_CHANGE.fullmatch(name)]


def _with_prompt_attention(config: Mapping[str, Any], *, attends_to_input: bool) -> dict[str, Any]:
    """Return the config of a run, with the given attention of its soft prompt if it has one and does not say it."""
    fields: dict[str, Any] = configuration.plain(config)
    method = fields.get("method")
    if isinstance(method, dict) and method.get("name") == "prompt":
        method.setdefault("attends_to_input", attends_to_input)
    return fields


def adapter_error(directory: Location) -> WorkdirError:
    """Return the error about a PEFT adapter where a run is needed."""
    return WorkdirError(
        f"{directory}: is a PEFT adapter, not a run. Fix: convert it with `python -m finetune_scaling.convert "
        f"--from-peft={directory} --base=RUN --out=DIR`, and give DIR"
    )


def with_absolute_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run, or of a study's family, with paths that do not depend on the working directory."""
    found: dict[str, Any] = with_absolute_data(config)
    for keys in _PATHS:
        found = _with_absolute_path(found, keys)
    return found


def _with_absolute_path(value: Any, keys: Sequence[str]) -> Any:
    """Return a group of fields with the path at `keys` as an absolute one, if it has a path there."""
    if not keys:
        return absolute_path(value)
    if not isinstance(value, Mapping) or keys[0] not in value:
        return value
    return {**value, keys[0]: _with_absolute_path(value[keys[0]], keys[1:])}


def run_state(directory: Location) -> RunState:
    """Return the state of a run, from the files that exist."""
    if (directory / RESULT).exists():
        return "done"
    if (directory / FAILURE).exists():
        return "failed"
    return "started" if (directory / CONFIG).exists() else "waiting"


@contextlib.contextmanager
def lock_directory(directory: str | os.PathLike, *, wait: bool = False) -> Iterator[None]:
    """Lock a directory until the block ends or the process dies. In a distributed run the primary process locks it.

    The operating system holds the lock of a local directory; for a URL it is a lease (lease.py).

    Raises:
        InUseError: another process holds the lock, and `wait` is False.
        WorkdirError: the directory cannot be used.
    """
    from finetune_scaling.sharding.processes import run_on_primary  # imports JAX, which reading a run does not need

    with contextlib.ExitStack() as stack:
        run_on_primary(lambda: _acquire(stack, location(directory), wait))
        yield


def _acquire(stack: contextlib.ExitStack, directory: Location, wait: bool) -> None:
    if isinstance(directory, Path):
        stack.callback(os.close, _flock(directory, wait))
    else:
        stack.enter_context(hold_lease(directory / LOCK, wait=wait))


def _flock(directory: Path, wait: bool) -> int:
    """Lock a local directory; return the file descriptor that holds the lock."""
    with disk_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.ENOTSUP, errno.ENOSYS, errno.ENOLCK):
            raise WorkdirError(
                f"{directory}: its file system has no locks ({error.strerror}), so two processes could write the same "
                "files. Fix: work in a local directory, and copy it afterwards"
            ) from None
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        raise InUseError(f"{directory}: another process is working here. Fix: wait for it, or choose another") from None
    return descriptor
