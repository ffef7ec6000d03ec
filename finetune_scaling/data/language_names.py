"""English names of languages, with the script and region of their codes."""

import functools
from collections.abc import Mapping

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.metrics.language_codes import LanguageCode, parse_language_code


def language_name(code: str, where: str, given: Mapping[str, str] | None = None) -> str:
    """Return the English name of a language: "Portuguese (Brazil)" for pt-BR, "Chinese (Simplified)" for zho_Hans.

    given: names that the config gives, by code. Raises ConfigError, naming the field `where`, if `code` has not the
    form of a language code, or its name is neither known nor given.
    """
    try:
        parsed, english = _parse(code)
        names = {_parse(other)[0]: name for other, name in (given or {}).items()}
    except DataError as error:
        raise ConfigError(f"{where} = {error}") from None
    name = names.get(parsed) or english
    if name is None:
        raise ConfigError(
            f"{where} = {code!r} has no known English name; give one, as template.languages = {{{code!r}: 'its name'}}"
        )
    return name


@functools.lru_cache(maxsize=1024)  # looked up for every example, which takes longer than encoding it
def _parse(code: str) -> tuple[LanguageCode, str | None]:
    """Return a language code and its English name; None if it is unknown."""
    parsed = parse_language_code(code)
    return parsed, parsed.english_name
