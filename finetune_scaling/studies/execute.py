"""Running a study: tokenizers, bases, then every finetuning run that nobody has done yet; resumable at any moment."""

import dataclasses
import logging
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from finetune_scaling import configuration
from finetune_scaling.data.tokenizers.training import TokenizerPreparation, prepare_tokenizer
from finetune_scaling.errors import (
    ConfigError,
    InUseError,
    Preempted,
    TrainingError,
    UserError,
    WorkdirError,
)
from finetune_scaling.experiments.run import run as train
from finetune_scaling.files import disk_errors, write_json_atomically
from finetune_scaling.interop.conversion import convert
from finetune_scaling.runs.run_directory import CONFIG, FAILURE, RESULT, RunDirectory, lock_directory, run_state
from finetune_scaling.sharding.roles import is_distributed, is_primary, run_on_primary
from finetune_scaling.studies.configs import (
    Base,
    base_of,
    bases,
    conversion,
    finetuning_config,
    pretraining_config,
    tokenizer_path,
)
from finetune_scaling.studies.grid import Run, StudyConfig, runs
from finetune_scaling.studies.public_bases import check_converted, check_source
from finetune_scaling.training.step import compiled_programs

log = logging.getLogger(__name__)


@dataclasses.dataclass
class Tally:
    """What one process did."""

    done: int = 0
    failed: int = 0
    elsewhere: int = 0
    steps: int = 0
    seconds: float = 0.0
    broken_bases: dict[Base, Exception] = dataclasses.field(default_factory=dict)

    def text(self) -> str:
        rate = f", {self.steps / self.seconds:.1f} steps/s" if self.seconds else ""
        return f"{self.done} runs trained{rate}, {self.failed} failed, {compiled_programs()} programs compiled"


def execute(study: StudyConfig, config: Mapping[str, Any], workdir: Path, index: int = 0, of: int = 1) -> Tally:
    """Trains this process's share of the runs: every `of`-th one from `index` on.

    Processes may share a study's directory without talking: what one of them works on is locked, what is done is
    skipped, and a run whose base another one is pretraining comes last. A run that fails is recorded and left; the next
    call tries it again.
    """
    run_on_primary(lambda: claim(study, config, workdir))
    tally = Tally()
    mine = waiting(study, workdir, index, of)
    later = []
    began = time.monotonic()
    for number, run in enumerate(mine):
        log.info("run %d of %d, %s: %s", number + 1, len(mine), _left(began, tally, len(mine) - number), run.directory)
        try:
            _attempt(study, workdir, run, tally, wait=False)
        except _BaseInUse:
            log.info("another process pretrains its base: put off")
            later.append(run)
    for number, run in enumerate(later):
        log.info("put off, %d of %d: %s", number + 1, len(later), run.directory)
        try:
            _attempt(study, workdir, run, tally, wait=True)
        except _BaseInUse:  # pretrained by a command of its own, outside this study
            log.info("%s: another process pretrains its base", run.directory)
            tally.elsewhere += 1
    return tally


def waiting(study: StudyConfig, workdir: Path, index: int = 0, of: int = 1) -> list[Run]:
    """A share's runs that are not done."""
    mine = runs(study)[index::of]
    open_ = run_on_primary(lambda: [i for i, run in enumerate(mine) if run_state(workdir / run.directory) != "done"])
    return [mine[i] for i in open_]


class _BaseInUse(Exception):
    """Another process is pretraining the base."""


def claim(study: StudyConfig, config: Mapping[str, Any], workdir: Path) -> None:
    """Records the config as this directory's. A study may grow: what was trained in it so far must stay what it is.

    Raises WorkdirError that names the run and the fields where a base or a run of the study was trained otherwise.
    """
    with disk_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
    with lock_directory(workdir, wait=True):
        for base in bases(study):
            if base.tokens is None:  # a conversion compares what is there with its source
                RunDirectory(base.directory(workdir)).check(pretraining_config(study, workdir, base))
        for run in runs(study):
            if (workdir / run.directory).exists():
                RunDirectory(workdir / run.directory).check(finetuning_config(study, workdir, run))
        write_json_atomically(workdir / CONFIG, configuration.plain(config))


def ensure_tokenizer(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Trains a family's tokenizer if it has none yet."""
    family = base.family
    settings, path = study.families[family].tokenizer, Path(tokenizer_path(study, workdir, base))
    if isinstance(settings, str):
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
    """Pretrains or converts a base if nobody has. Where another process is at it, waits, or raises InUseError.

    Raises CheckpointError where a public model has another shape than the study's config says, before it is fetched.
    """
    directory = base.directory(workdir)
    ensure_tokenizer(study, workdir, base)
    with lock_directory(directory.with_name(f"{directory.name}.turn"), wait=wait):
        if not run_on_primary((directory / RESULT).exists):
            if base.tokens is None:
                log.info("pretraining %s", base.name)
                train(pretraining_config(study, workdir, base), directory)
            else:
                check_source(study, workdir, base)
                log.info("converting %s", base.name)
                convert(conversion(study, workdir, base))
        if base.tokens is not None:
            check_converted(study, workdir, base)


def _attempt(study: StudyConfig, workdir: Path, run: Run, tally: Tally, *, wait: bool) -> None:
    """Trains one run; a failure is written down beside it and counted. Raises _BaseInUse unless told to wait."""
    directory = workdir / run.directory
    try:
        _prepare_base(study, workdir, run, tally, wait=wait)
        record = train(finetuning_config(study, workdir, run), directory)
    except InUseError:
        log.info("%s: another process is at it", run.directory)
        tally.elsewhere += 1
        return
    except (WorkdirError, Preempted, _BaseInUse):
        raise  # a full disk or a read-only directory would fail every run alike
    except Exception as error:
        if is_distributed() and not isinstance(error, TrainingError | ConfigError):
            raise  # it may be this process's alone: the others would wait for it in the next run
        _record_failure(directory, error)
        tally.failed += 1
        return
    if is_primary():
        (directory / FAILURE).unlink(missing_ok=True)
    tally.done += 1
    tally.steps += record["steps"]
    tally.seconds += record["seconds"]


def _prepare_base(study: StudyConfig, workdir: Path, run: Run, tally: Tally, *, wait: bool) -> None:
    """Pretrains the run's base if need be. A base that failed is not tried again for each of its runs."""
    base = base_of(study, run.setting)
    if base in tally.broken_bases:
        raise tally.broken_bases[base]
    try:
        ensure_base(study, workdir, base, wait=wait)
    except InUseError as error:
        raise _BaseInUse from error
    except (WorkdirError, Preempted):
        raise
    except Exception as error:
        tally.broken_bases[base] = error
        raise


def _record_failure(directory: Path, error: Exception) -> None:
    log.error("%s failed: %s", directory, error)
    trace = [] if isinstance(error, UserError) else traceback.format_exception(error)
    write_json_atomically(
        directory / FAILURE, {"error": str(error), "kind": type(error).__name__, "traceback": "".join(trace)}
    )


def _left(began: float, tally: Tally, remaining: int) -> str:
    if not tally.done:
        return "time left unknown"
    minutes = (time.monotonic() - began) / tally.done * remaining / 60
    return f"about {minutes:.0f} min left"
