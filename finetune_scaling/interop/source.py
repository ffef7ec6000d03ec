"""Where a run's model came from: the public model that its base, or the base of that, was converted from."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.hugging_face import FAMILIES
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class Source(NamedTuple):
    """A public model: its name on the hub or its directory, the revision there, and its family's model_type."""

    name: str
    revision: str | None
    family: str

    @property
    def is_of_hub(self) -> bool:
        """Whether others find it by its name."""
        return is_hub_name(self.name)


def is_hub_name(name: str) -> bool:
    """Whether a model's name is OWNER/NAME of the hub, and not a directory here."""
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def source_of(found: RunCheckpoint) -> Source | None:
    """What a base was converted from; None for a run that was trained here."""
    public = found.run_config.public
    return None if public is None else Source(public.name, public.commit or public.revision, public.family)


def families_for(found: RunCheckpoint) -> Iterable[Family]:
    """All families, that of the public model which a run descends from first."""
    source = source_of(found)
    while source is None and found.run_config.base is not None:
        found = find_base(found.run_config.base)
        source = source_of(found)
    first = source.family if source else ""
    return sorted(FAMILIES.values(), key=lambda family: family.model_type != first)
