"""English names of languages, with the script and region of their codes."""

from collections.abc import Mapping

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.metrics.language_codes import LANGUAGE_NAMES, parse_language_code

_SCRIPTS = {
    "Arab": "Arabic script", "Cyrl": "Cyrillic", "Deva": "Devanagari", "Grek": "Greek script", "Hans": "Simplified",
    "Hant": "Traditional", "Latn": "Latin script", "Tfng": "Tifinagh",
}  # fmt: skip
# Languages that are written in several scripts, and the script that is not named; of all others none is named.
_USUAL_SCRIPTS = {
    **dict.fromkeys(("ace", "az", "bjn", "bs", "ha", "knc", "ku", "min", "ms", "nan", "taq", "tk", "uz"), "Latn"),
    **dict.fromkeys(("ar", "kas", "sd"), "Arab"),
    **dict.fromkeys(("kk", "ky", "mn", "tg", "tt"), "Cyrl"),
    **dict.fromkeys(("lzh", "sr", "wuu", "yue", "zh"), ""),
    "pa": "Guru",
}
_REGIONS = {
    "AR": "Argentina", "AT": "Austria", "AU": "Australia", "BE": "Belgium", "BR": "Brazil", "CA": "Canada",
    "CH": "Switzerland", "CL": "Chile", "CN": "China", "CO": "Colombia", "DE": "Germany", "EG": "Egypt", "ES": "Spain",
    "FR": "France", "GB": "United Kingdom", "HK": "Hong Kong", "IE": "Ireland", "IN": "India", "IR": "Iran",
    "IT": "Italy", "JP": "Japan", "KR": "South Korea", "MO": "Macao", "MX": "Mexico", "NG": "Nigeria",
    "NL": "Netherlands", "NZ": "New Zealand", "PE": "Peru", "PK": "Pakistan", "PT": "Portugal", "RU": "Russia",
    "SA": "Saudi Arabia", "SG": "Singapore", "TW": "Taiwan", "UA": "Ukraine", "US": "United States",
    "ZA": "South Africa", "419": "Latin America",
}  # fmt: skip


def language_name(code: str, where: str, given: Mapping[str, str] | None = None) -> str:
    """Return the English name of a language: "Portuguese (Brazil)" for pt-BR, "Chinese (Simplified)" for zho_Hans.

    given: names that the config gives, by code. Raises ConfigError, naming the field `where`, if `code` has not the
    form of a language code, or its name is neither known nor given.
    """
    try:
        parsed = parse_language_code(code)
    except DataError as error:
        raise ConfigError(f"{where} = {error}") from None
    if given and code in given:
        return given[code]
    known = [LANGUAGE_NAMES.get(parsed.language), _script_name(parsed.language, parsed.script)]
    known.append(_REGIONS.get(parsed.region) if parsed.region else "")
    if None in known:
        raise ConfigError(
            f"{where} = {code!r} is a language without a known English name; give it, as template.languages = "
            f"{{{code!r}: 'its name'}}"
        )
    name, *details = known
    return f"{name} ({', '.join(filter(None, details))})" if any(details) else str(name)


def _script_name(language: str, script: str) -> str | None:
    """Return the name of a script that distinguishes the language's texts; empty if it does not, None if unknown."""
    usual = _USUAL_SCRIPTS.get(language)
    return "" if not script or usual is None or script == usual else _SCRIPTS.get(script)
