"""The public model that a run's base was imported from."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from finetune_scaling.interop.families.family import Family
from finetune_scaling.interop.families.registry import FAMILIES
from finetune_scaling.runs.model_loading import RunCheckpoint, find_base

_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")


class PublicSource(NamedTuple):
    """A public model: its name on the hub or its directory, the revision, and the model_type of its family."""

    name: str
    revision: str | None
    family: str

    @property
    def on_hub(self) -> bool:
        """Whether the name is one of the hub."""
        return is_hub_name(self.name)


def is_hub_name(name: str) -> bool:
    """Whether a model's name is OWNER/NAME on the hub rather than a local directory."""
    return _HUB_NAME.fullmatch(name) is not None and not Path(name).exists()


def public_source(found: RunCheckpoint) -> PublicSource | None:
    """Return the model that a base was imported from; None for a run that was trained here."""
    public = found.run_config.public
    return None if public is None else PublicSource(public.name, public.commit or public.revision, public.family)


def families_for(found: RunCheckpoint) -> Iterable[Family]:
    """Return all families, starting with that of the public model from which a run descends."""
    source = public_source(found)
    while source is None and found.run_config.base is not None:
        found = find_base(found.run_config.base)
        source = public_source(found)
    first = source.family if source else ""
    return sorted(FAMILIES.values(), key=lambda family: family.model_type != first)
