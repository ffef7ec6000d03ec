"""Public bases of a study: whether what is there is what the study's config lists, told before it is fetched."""

import logging
from pathlib import Path

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError
from finetune_scaling.files import read_json
from finetune_scaling.interop.hub import UnreachableError
from finetune_scaling.interop.import_source import read_source_config
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.run_directory import CONFIG, RESULT
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.studies.configs import Base, conversion, family_model
from finetune_scaling.studies.grid import StudyConfig

log = logging.getLogger(__name__)

_FREE = ("compute_dtype", "remat", "attention", "max_length", "embedding_std")  # fields that change no shape


def check_source(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Compares the config.json of a base that is yet to be converted; nothing else of it is fetched.

    Raises CheckpointError or ConfigError where there is none, or it is not as the study's config says. A hub that does
    not answer is no mistake of the study's: runs whose bases are here go on without it.
    """
    run_on_primary(lambda: _check_source(study, workdir, base))


def _check_source(study: StudyConfig, workdir: Path, base: Base) -> None:
    if (base.directory(workdir) / RESULT).exists():
        return
    source = conversion(study, workdir, base).source
    try:
        _compare(study, base, read_source_config(source), source)
    except UnreachableError as error:
        log.warning("base %s: %s", base.name, error)


def check_converted_base(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Compares a base that was converted, be it by hand or of another study's config; raises CheckpointError."""
    directory = base.directory(workdir)
    fields = read_json(directory / CONFIG)["model"]
    _compare(study, base, configuration.build(ModelConfig, fields, f"{directory / CONFIG}: model"), str(directory))


def _compare(study: StudyConfig, base: Base, there: ModelConfig, where: str) -> None:
    """Raises CheckpointError, naming the field, where a model is not the one that was listed and costed."""
    listed = configuration.plain(family_model(study.families[base.family], base.size))
    found = configuration.plain(there)
    differing = [name for name in configuration.differing_fields(listed, found) if name not in _FREE]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{where}: model.{name} = {found.get(name)!r}, but families.{base.family}.public.models, {base.size}, "
            f"says {listed.get(name)!r}; correct the study's config"
        )
