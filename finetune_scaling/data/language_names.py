"""English names of languages, with the script and region of their codes."""

from collections.abc import Mapping

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.metrics.language_codes import parse_language_code


def language_name(code: str, where: str, given: Mapping[str, str] | None = None) -> str:
    """Return the English name of a language: "Portuguese (Brazil)" for pt-BR, "Chinese (Simplified)" for zho_Hans.

    given: names that the config gives, by code. Raises ConfigError, naming the field `where`, if `code` has not the
    form of a language code, or its name is neither known nor given.
    """
    try:
        parsed = parse_language_code(code)
        names = {parse_language_code(other): name for other, name in (given or {}).items()}
    except DataError as error:
        raise ConfigError(f"{where} = {error}") from None
    name = names.get(parsed) or parsed.english_name
    if name is None:
        raise ConfigError(
            f"{where} = {code!r} has no known English name; give one, as template.languages = {{{code!r}: 'its name'}}"
        )
    return name
