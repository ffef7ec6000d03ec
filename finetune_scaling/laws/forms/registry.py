"""The library of laws by name, and users' laws by file."""

import importlib.util
import types
from dataclasses import replace
from pathlib import Path

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.joint import ADDITIVE, ALL_FACTORS, MULTIPLICATIVE, RECTIFIED_JOINT
from finetune_scaling.laws.forms.metric import EXPONENTIAL, SIGMOID
from finetune_scaling.laws.forms.power import RECTIFIED, SINGLE, VANILLA
from finetune_scaling.laws.forms.pretraining import CHINCHILLA, PRETRAINING

_ON_POINTS = (SINGLE, VANILLA, RECTIFIED, MULTIPLICATIVE, ADDITIVE, RECTIFIED_JOINT, ALL_FACTORS)
LAWS = {law.name: law for law in (*_ON_POINTS, CHINCHILLA, PRETRAINING, EXPONENTIAL, SIGMOID)}
SEPARATE = "_free"


def law_named(name: str) -> Law:
    """Return a law by its name, by NAME_free (separate parameters for each factor), or by FILE.py:NAME (your own).

    Raises ConfigError that lists the known laws, or says what is wrong with the file.
    """
    if ":" in name or name.endswith(".py"):
        return _law_in_file(name)
    base = name.removesuffix(SEPARATE)
    if base in LAWS and (base == name or any(p.per_factor for p in LAWS[base].parameters)):
        return LAWS[base] if base == name else LAWS[base].without_sharing()
    raise ConfigError(
        f"{name!r} is not a law{suggestion(name, LAWS)}; the library has {', '.join(LAWS)}; give your own law as "
        "FILE.py:NAME"
    )


def _law_in_file(name: str) -> Law:
    path, separator, attribute = name.rpartition(":")
    if not separator or not path.endswith(".py"):
        raise ConfigError(f"{name}: give your own law as FILE.py:NAME, where NAME is the Law in that file")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; give your own law as FILE.py:NAME")
    law = getattr(_module(path), attribute, None)
    if not isinstance(law, Law):
        found = "is missing" if law is None else f"is a {type(law).__name__}, not a Law"
        raise ConfigError(f"{path}: {attribute} {found}; docs/laws.md shows how to declare one")
    return replace(law, file=name)


def _module(path: str) -> types.ModuleType:
    spec = importlib.util.spec_from_file_location(f"law_in_{Path(path).stem}", path)
    if spec is None or spec.loader is None:
        raise ConfigError(f"{path}: cannot be read as Python; give a .py file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__} while reading it: {error}; fix the file") from error
    return module
