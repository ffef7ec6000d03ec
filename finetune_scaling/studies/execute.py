"""Execute a study: tokenizers, bases, then every unfinished finetuning run; resumable after any interruption."""

import dataclasses
import logging
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.data_paths import with_absolute_data
from finetune_scaling.data.tokenizers.training import TokenizerPreparation, prepare_tokenizer
from finetune_scaling.errors import (
    ConfigError,
    DataError,
    InUseError,
    Preempted,
    TrainingError,
    UserError,
    WorkdirError,
)
from finetune_scaling.experiments.run import run as train
from finetune_scaling.files import disk_errors, read_json, write_json_atomically
from finetune_scaling.interop.model_import import import_model
from finetune_scaling.messages import count_noun
from finetune_scaling.runs.run_directory import (
    CONFIG,
    FAILURE,
    RESULT,
    RunDirectory,
    lock_directory,
    run_state,
    with_absolute_paths,
)
from finetune_scaling.sharding.processes import is_distributed, is_primary, run_on_primary
from finetune_scaling.studies.check import check_with_tokenizers
from finetune_scaling.studies.configs import (
    Base,
    base_of,
    bases,
    conversion,
    finetuning_config,
    pretraining_config,
    tokenizer_path,
)
from finetune_scaling.studies.data_record import check_same_data
from finetune_scaling.studies.grid import StudyConfig, StudyRun, runs
from finetune_scaling.studies.public_bases import check_converted_base, check_source
from finetune_scaling.training.compilations import compiled_programs

log = logging.getLogger(__name__)

_DETERMINISTIC_ERRORS = tuple(
    kind.__name__ for kind in (ConfigError, DataError, TrainingError)
)  # the same run fails alike


@dataclasses.dataclass
class ExecutionSummary:
    """Counts of what one process did.

    skipped: runs that failed in an earlier call and were not tried again. in_use: runs that another process is
    executing.
    """

    done: int = 0
    failed: int = 0
    skipped: int = 0
    in_use: int = 0
    steps: int = 0
    seconds: float = 0.0
    failed_bases: dict[Base, Exception] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        """Return the counts as one line."""
        rate = f", {self.steps / self.seconds:.1f} steps/s" if self.seconds else ""
        skipped = f", {self.skipped} that failed before were skipped" if self.skipped else ""
        trained, programs = count_noun(self.done, "run"), count_noun(compiled_programs(), "program")
        return f"{trained} trained{rate}, {self.failed} failed{skipped}, {programs} compiled"


def execute(
    study: StudyConfig,
    config: Mapping[str, Any],
    workdir: Path,
    index: int = 0,
    of: int = 1,
    *,
    retry_failed: bool = False,
) -> ExecutionSummary:
    """Execute a process's share of the runs: every `of`-th run, starting with number `index`.

    Processes may share a study's directory without communication: runs in progress are locked, finished runs are
    skipped, and runs whose base is being pretrained by another process are deferred. A run that fails is recorded, and
    the others continue. The next call tries it again, except after an error of its config, data or training, which
    would repeat: such runs are skipped unless `retry_failed`. Raises as check_same_data and
    check_with_tokenizers before any run or base is trained.
    """
    run_on_primary(lambda: record_config(study, config, workdir))
    pending = pending_runs(study, workdir, index, of, retry_failed=retry_failed)
    unfinished = pending_runs(study, workdir, index, of, retry_failed=True)
    summary = ExecutionSummary(skipped=len(unfinished) - len(pending))
    check_same_data(study, workdir, pending)
    for base in {base.family: base for base in bases(study, pending)}.values():
        ensure_tokenizer(study, workdir, base)
    check_with_tokenizers(study, workdir, pending)
    deferred: list[StudyRun] = []
    start = time.monotonic()
    for title, share in (("run", pending), ("deferred run", deferred)):
        for number, run in enumerate(share):
            remaining = _remaining_time(start, summary, len(share) - number)
            log.info("%s %d of %d, %s: %s", title, number + 1, len(share), remaining, run.directory)
            try:
                _attempt(study, workdir, run, summary, wait=share is deferred)
            except _BaseInUse:
                log.info("another process is pretraining its base")
                if share is pending:
                    deferred.append(run)
                else:  # by a command outside this study
                    summary.in_use += 1
    return summary


def pending_runs(
    study: StudyConfig, workdir: Path, index: int = 0, of: int = 1, *, retry_failed: bool = False
) -> list[StudyRun]:
    """Return the unfinished runs of a share; without `retry_failed`, not those whose error would repeat."""
    share = runs(study)[index::of]
    wanted = run_on_primary(lambda: [_is_pending(workdir / run.directory, retry_failed) for run in share])
    return [run for run, is_wanted in zip(share, wanted, strict=True) if is_wanted]


def _is_pending(directory: Path, retry_failed: bool) -> bool:
    state = run_state(directory)
    if state == "failed" and not retry_failed:
        return read_json(directory / FAILURE)["kind"] not in _DETERMINISTIC_ERRORS
    return state != "done"


class _BaseInUse(Exception):
    """Raised when another process is pretraining the base."""


def record_config(study: StudyConfig, config: Mapping[str, Any], workdir: Path) -> None:
    """Write the study's config to its directory. A study may be extended, but not change existing runs and bases.

    Finished runs record the places of data that has moved.

    Raises WorkdirError that names the run and the fields if an existing base or run was trained with another config.
    """
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with lock_directory(workdir, wait=True):
        for base in bases(study):
            if not base.is_public:  # conversions are compared with their source elsewhere
                _check_config(base.directory(workdir), pretraining_config(study, workdir, base))
        for run in runs(study):
            if (workdir / run.directory).exists():
                _check_config(workdir / run.directory, finetuning_config(study, workdir, run))
        found = with_absolute_data(configuration.plain(config))
        families = {name: with_absolute_paths(family) for name, family in found["families"].items()}
        write_json_atomically(workdir / CONFIG, {**found, "families": families})


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    directory = RunDirectory(path)
    if run_state(path) == "done":  # it is not trained again, which would record where its data is now
        directory.write_config(config)
    else:
        directory.check_config(config)


def ensure_tokenizer(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Train a family's tokenizer if it does not exist yet."""
    family = base.family
    settings, path = study.families[family].tokenizer, Path(tokenizer_path(study, workdir, base))
    if study.families[family].public or isinstance(settings, str):
        return
    with lock_directory(path, wait=True):
        run_on_primary(lambda: _train_tokenizer(study, family, settings, path))


def _train_tokenizer(study: StudyConfig, family: str, settings: Any, path: Path) -> None:
    if (path / "tokenizer.model").exists():
        return
    log.info("training the tokenizer of %s", family)
    corpus = configuration.plain(study.families[family].pretrain)["corpus"]
    preparation = {"tokenizer": settings, "corpus": corpus}
    prepare_tokenizer(configuration.build(TokenizerPreparation, preparation, f"families.{family}"), path)


def ensure_base(study: StudyConfig, workdir: Path, base: Base, *, wait: bool = True) -> None:
    """Pretrain or convert a base unless it is finished. If another process does so, wait or raise InUseError.

    Raises CheckpointError, before any download, if a public model's shape differs from the study's config.
    """
    directory = base.directory(workdir)
    ensure_tokenizer(study, workdir, base)
    with lock_directory(directory.with_name(f"{directory.name}.turn"), wait=wait):
        if not run_on_primary((directory / RESULT).exists):
            if not base.is_public:
                log.info("pretraining %s", base.name)
                train(pretraining_config(study, workdir, base), directory)
            else:
                check_source(study, workdir, base)
                log.info("converting %s", base.name)
                import_model(conversion(study, workdir, base))
        if base.is_public:
            check_converted_base(study, workdir, base)


def _attempt(study: StudyConfig, workdir: Path, run: StudyRun, summary: ExecutionSummary, *, wait: bool) -> None:
    """Train one run; a failure is recorded in its directory and counted. Raises _BaseInUse unless `wait`."""
    directory = workdir / run.directory
    if is_primary():
        with disk_errors(directory):
            (directory / FAILURE).unlink(missing_ok=True)  # of an earlier call
    try:
        _prepare_base(study, workdir, run, summary, wait=wait)
        record = train(finetuning_config(study, workdir, run), directory)
    except InUseError:
        log.info("%s: in use by another process", run.directory)
        summary.in_use += 1
        return
    except (WorkdirError, Preempted, _BaseInUse):
        raise  # a full disk or a read-only directory would make every run fail
    except Exception as error:
        if is_distributed() and not isinstance(error, TrainingError | ConfigError):
            raise  # may concern this process only: the others would wait for it in the next run
        log.error("%s failed: %s", directory, error)
        if is_primary():
            _record_failure(directory, error)
        summary.failed += 1
        return
    summary.done += 1
    summary.steps += record["steps"]
    summary.seconds += record["seconds"]


def _prepare_base(study: StudyConfig, workdir: Path, run: StudyRun, summary: ExecutionSummary, *, wait: bool) -> None:
    """Pretrain the run's base if necessary. A base that failed is not tried again for each of its runs."""
    base = base_of(study, run.setting)
    if base in summary.failed_bases:
        raise summary.failed_bases[base]
    try:
        ensure_base(study, workdir, base, wait=wait)
    except InUseError as error:
        raise _BaseInUse from error
    except (WorkdirError, Preempted):
        raise
    except Exception as error:
        summary.failed_bases[base] = error
        raise


def _record_failure(directory: Path, error: Exception) -> None:
    trace = [] if isinstance(error, UserError) else traceback.format_exception(error)
    write_json_atomically(
        directory / FAILURE, {"error": str(error), "kind": type(error).__name__, "traceback": "".join(trace)}
    )


def _remaining_time(start: float, summary: ExecutionSummary, remaining: int) -> str:
    if not summary.done:
        return "remaining time unknown"
    minutes = (time.monotonic() - start) / summary.done * remaining / 60
    return f"about {minutes:.0f} min remaining"
