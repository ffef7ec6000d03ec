"""The library of laws by name, and laws of a user's own by file."""

import importlib.util
import types
from dataclasses import replace
from pathlib import Path

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.forms.all_factors import ALL_FACTORS
from finetune_scaling.laws.forms.chinchilla import CHINCHILLA
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.joint import ADDITIVE, MULTIPLICATIVE
from finetune_scaling.laws.forms.metric import EXPONENTIAL, SIGMOID
from finetune_scaling.laws.forms.power import SINGLE, VANILLA
from finetune_scaling.laws.forms.pretraining import PRETRAINING
from finetune_scaling.laws.forms.rectified import RECTIFIED, RECTIFIED_JOINT

_ALL = (
    SINGLE,
    VANILLA,
    RECTIFIED,
    MULTIPLICATIVE,
    ADDITIVE,
    RECTIFIED_JOINT,
    ALL_FACTORS,
    CHINCHILLA,
    PRETRAINING,
    EXPONENTIAL,
    SIGMOID,
)
LAWS = {law.name: law for law in _ALL}
FREE = "_free"


def law_named(name: str) -> Law:
    """A law by its name, by NAME_free (every parameter each factor's own), or by FILE.py:NAME (a law of yours).

    Raises ConfigError that lists the known ones, or says what is wrong with the file.
    """
    if ":" in name or name.endswith(".py"):
        return _of_file(name)
    base = name.removesuffix(FREE)
    if base in LAWS and (base == name or any(p.per_factor for p in LAWS[base].parameters)):
        return LAWS[base] if base == name else LAWS[base].freed()
    raise ConfigError(
        f"{name!r} is not a law{suggestion(name, LAWS)}; the library has {', '.join(LAWS)}; a law of yours is given "
        "as FILE.py:NAME"
    )


def _of_file(name: str) -> Law:
    path, separator, attribute = name.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise ConfigError(f"{name}: a law of yours is given as FILE.py:NAME, NAME being the Law in that file")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; a law of yours is given as FILE.py:NAME")
    law = getattr(_module(path), attribute, None)
    if not isinstance(law, Law):
        found = "has no such name" if law is None else f"holds a {type(law).__name__} there, not a Law"
        raise ConfigError(f"{path}: {attribute} {found}; docs/laws.md shows how to declare one")
    return replace(law, file=name)


def _module(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"law_in_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be read as Python")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__} while reading it: {error}; mend the file") from error
    return module
