"""English names of languages by their codes: ISO 639, BCP 47 (pt-BR, zh-Hans) and FLORES-200 (deu_Latn)."""

import re
from collections.abc import Mapping

from finetune_scaling.configuration import closest
from finetune_scaling.errors import ConfigError
from finetune_scaling.metrics.languages import TWO_LETTER_CODES

# By ISO 639-1 code; A, B and C are the artificial languages of data/grammar.
LANGUAGE_NAMES = {
    "A": "A", "B": "B", "C": "C",
    "af": "Afrikaans", "am": "Amharic", "ar": "Arabic", "as": "Assamese", "az": "Azerbaijani", "ba": "Bashkir",
    "be": "Belarusian", "bg": "Bulgarian", "bm": "Bambara", "bn": "Bengali", "bo": "Tibetan", "br": "Breton",
    "bs": "Bosnian", "ca": "Catalan", "cs": "Czech", "cy": "Welsh", "da": "Danish", "de": "German", "dz": "Dzongkha",
    "ee": "Ewe", "el": "Greek", "en": "English", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fj": "Fijian", "fo": "Faroese", "fr": "French", "ga": "Irish",
    "gd": "Scottish Gaelic", "gl": "Galician", "gn": "Guarani", "gu": "Gujarati", "ha": "Hausa", "he": "Hebrew",
    "hi": "Hindi", "hr": "Croatian", "ht": "Haitian Creole", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian",
    "ig": "Igbo", "is": "Icelandic", "it": "Italian", "ja": "Japanese", "jv": "Javanese", "ka": "Georgian",
    "kg": "Kikongo", "ki": "Kikuyu", "kk": "Kazakh", "km": "Khmer", "kn": "Kannada", "ko": "Korean", "ku": "Kurdish",
    "ky": "Kyrgyz", "la": "Latin", "lb": "Luxembourgish", "lg": "Ganda", "li": "Limburgish", "ln": "Lingala",
    "lo": "Lao", "lt": "Lithuanian", "lv": "Latvian", "mg": "Malagasy", "mi": "Maori", "mk": "Macedonian",
    "ml": "Malayalam", "mn": "Mongolian", "mr": "Marathi", "ms": "Malay", "mt": "Maltese", "my": "Burmese",
    "nb": "Norwegian Bokmål", "ne": "Nepali", "nl": "Dutch", "nn": "Norwegian Nynorsk", "no": "Norwegian",
    "ny": "Nyanja", "oc": "Occitan", "om": "Oromo", "or": "Odia", "pa": "Punjabi", "pl": "Polish", "ps": "Pashto",
    "pt": "Portuguese", "qu": "Quechua", "rn": "Rundi", "ro": "Romanian", "ru": "Russian", "rw": "Kinyarwanda",
    "sa": "Sanskrit", "sc": "Sardinian", "sd": "Sindhi", "sg": "Sango", "si": "Sinhala", "sk": "Slovak",
    "sl": "Slovenian", "sm": "Samoan", "sn": "Shona", "so": "Somali", "sq": "Albanian", "sr": "Serbian",
    "ss": "Swati", "st": "Southern Sotho", "su": "Sundanese", "sv": "Swedish", "sw": "Swahili", "ta": "Tamil",
    "te": "Telugu", "tg": "Tajik", "th": "Thai", "ti": "Tigrinya", "tk": "Turkmen", "tl": "Tagalog", "tn": "Tswana",
    "tr": "Turkish", "ts": "Tsonga", "tt": "Tatar", "tw": "Twi", "ug": "Uyghur", "uk": "Ukrainian", "ur": "Urdu",
    "uz": "Uzbek", "vi": "Vietnamese", "wo": "Wolof", "xh": "Xhosa", "yi": "Yiddish", "yo": "Yoruba",
    "zh": "Chinese", "zu": "Zulu",
}  # fmt: skip

# Further languages of FLORES-200, by ISO 639-3 code.
_THREE_LETTERS = {
    "ace": "Acehnese", "acm": "Mesopotamian Arabic", "acq": "Ta'izzi-Adeni Arabic", "aeb": "Tunisian Arabic",
    "ajp": "South Levantine Arabic", "aka": "Akan", "apc": "North Levantine Arabic", "ars": "Najdi Arabic",
    "ary": "Moroccan Arabic", "arz": "Egyptian Arabic", "ast": "Asturian", "awa": "Awadhi", "ayr": "Aymara",
    "azb": "South Azerbaijani", "ban": "Balinese", "bem": "Bemba", "bho": "Bhojpuri", "bjn": "Banjar",
    "bug": "Buginese",
    "ceb": "Cebuano", "cjk": "Chokwe", "ckb": "Central Kurdish", "crh": "Crimean Tatar", "dik": "Dinka", "dyu": "Dyula",
    "fil": "Filipino", "fon": "Fon", "fur": "Friulian", "fuv": "Nigerian Fulfulde", "hne": "Chhattisgarhi",
    "ilo": "Ilocano", "kab": "Kabyle", "kac": "Kachin", "kam": "Kamba", "kas": "Kashmiri", "kbp": "Kabiyè",
    "kea": "Kabuverdianu", "kmb": "Kimbundu", "knc": "Central Kanuri", "lij": "Ligurian", "lmo": "Lombard",
    "ltg": "Latgalian", "lua": "Luba-Kasai", "luo": "Luo", "lus": "Mizo", "lzh": "Literary Chinese", "mag": "Magahi",
    "mai": "Maithili", "min": "Minangkabau", "mni": "Meitei", "mos": "Mossi", "nan": "Southern Min",
    "nso": "Northern Sotho", "nus": "Nuer", "pag": "Pangasinan", "pap": "Papiamento", "prs": "Dari", "sat": "Santali",
    "scn": "Sicilian", "shn": "Shan", "szl": "Silesian", "taq": "Tamasheq", "tpi": "Tok Pisin", "tum": "Tumbuka",
    "tzm": "Central Atlas Tamazight", "umb": "Umbundu", "vec": "Venetian", "war": "Waray", "wuu": "Wu Chinese",
    "yue": "Cantonese",
}  # fmt: skip

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
# language, script, region and variants, joined by - (BCP 47) or _ (FLORES, POSIX)
_VARIANT = r"[A-Za-z0-9]{5,8}|\d[A-Za-z0-9]{3}"
_CODE = re.compile(rf"([A-Za-z]{{1,3}})(?:[-_]([A-Za-z]{{4}}))?(?:[-_]([A-Za-z]{{2}}|\d{{3}}))?(?:[-_](?:{_VARIANT}))*")


def language_name(code: str, where: str, given: Mapping[str, str] | None = None) -> str:
    """Return the English name of a language: "Portuguese (Brazil)" for pt-BR, "Chinese (Simplified)" for zho_Hans.

    given: names that the config gives, by code. Raises ConfigError, naming the field `where`, if `code` has not the
    form of a language code, or its name is neither known nor given.
    """
    parsed = _CODE.fullmatch(code)
    if parsed is None:
        near = closest(code, LANGUAGE_NAMES)
        fix = f"; did you mean {near!r}?" if near else "; give one such as de, deu_Latn or pt-BR"
        raise ConfigError(f"{where} = {code!r} is not a language code{fix}")
    if given and code in given:
        return given[code]
    language, script, region = parsed.groups(default="")
    if len(language) > 1:
        language = TWO_LETTER_CODES.get(language.lower(), language.lower())
    known = [LANGUAGE_NAMES.get(language) or _THREE_LETTERS.get(language), _script_name(language, script.title())]
    known.append(_REGIONS.get(region.upper()) if region else "")
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
