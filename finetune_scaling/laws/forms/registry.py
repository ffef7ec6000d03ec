"""Laws by name: those of the library, and users' own in a file."""

import runpy
from dataclasses import replace

from finetune_scaling.configuration import suggestion
from finetune_scaling.errors import ConfigError
from finetune_scaling.laws.forms.declared import Law
from finetune_scaling.laws.forms.library import LAWS

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
    try:
        law = runpy.run_path(path).get(attribute)
    except Exception as error:
        raise ConfigError(f"{path}: {type(error).__name__} while reading it: {error}; fix the file") from error
    if not isinstance(law, Law):
        found = "is missing" if law is None else f"is a {type(law).__name__}, not a Law"
        raise ConfigError(f"{path}: {attribute} {found}; docs/laws.md shows how to declare one")
    return replace(law, file=name)
