"""Comparison of public bases with the shapes that the study's config lists, before they are downloaded."""

import logging
from collections.abc import Mapping
from pathlib import Path

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError
from finetune_scaling.files import read_json
from finetune_scaling.interop.hub import UnreachableError
from finetune_scaling.interop.hugging_face_model import open_model
from finetune_scaling.interop.import_source import read_source_config
from finetune_scaling.models.config import ModelConfig
from finetune_scaling.runs.run_directory import CONFIG, RESULT, RunDirectory
from finetune_scaling.sharding.processes import run_on_primary
from finetune_scaling.studies.configs import Base, bases, conversion, family_model
from finetune_scaling.studies.grid import StudyConfig

log = logging.getLogger(__name__)

_NOT_COMPARED = (
    "compute_dtype",
    "matmul_precision",
    "remat",
    "attention",
    "max_length",
    "embedding_std",
)  # not part of the shape


def check_source(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Compare the config.json of a base that is not converted yet; nothing else is downloaded.

    Of a directory, the headers of the weight files are checked, too.

    Raises CheckpointError or ConfigError if it is missing or differs from the study's config. An unreachable hub
    is only logged, because runs whose bases are converted do not need it.
    """
    run_on_primary(lambda: _check_source(study, workdir, base))


def _check_source(study: StudyConfig, workdir: Path, base: Base) -> None:
    if (base.directory(workdir) / RESULT).exists():
        return
    source = conversion(study, workdir, base).source
    try:
        _compare(study, base, read_source_config(source), source)
        if Path(source).is_dir():
            open_model(Path(source))
    except UnreachableError as error:
        log.warning("base %s: %s", base.name, error)


def check_converted_base(study: StudyConfig, workdir: Path, base: Base) -> None:
    """Compare a converted base, which may come from another study's config, with the listed shape and other bases.

    Raises CheckpointError if its shape differs, ConfigError if its tokenizer differs from that of its family.
    """
    directory = base.directory(workdir)
    fields = read_json(directory / CONFIG)["model"]
    _compare(study, base, configuration.build(ModelConfig, fields, f"{directory / CONFIG}: model"), str(directory))
    records = ((other, RunDirectory(other.directory(workdir)).result) for other in bases(study))
    check_same_tokenizer({other: record["tokenizer_sha256"] for other, record in records if record})


def check_same_tokenizer(digests: Mapping[Base, str | None]) -> None:
    """Raise ConfigError if public bases of one family have different tokenizers. digests: of the known ones."""
    first: dict[str, Base] = {}
    for base, digest in digests.items():
        other = first.setdefault(base.family, base)
        if base.is_public and digest != digests[other]:
            raise ConfigError(
                f"families.{base.family}: {other.name} and {base.name} have different tokenizers, so their losses per "
                "token cannot be compared. Fix: give each tokenizer a family and a task of its own"
            )


def _compare(study: StudyConfig, base: Base, actual: ModelConfig, where: str) -> None:
    """Raise CheckpointError, naming the field, if a model's shape differs from the listed one."""
    listed = configuration.plain(family_model(study.families[base.family], base.size))
    found = configuration.plain(actual)
    differing = [name for name in configuration.differing_fields(listed, found) if name not in _NOT_COMPARED]
    if differing:
        name = differing[0]
        raise CheckpointError(
            f"{where}: model.{name} = {found.get(name)!r}, but families.{base.family}.public.models, {base.size}, "
            f"has {listed.get(name)!r}; fix the study's config"
        )
