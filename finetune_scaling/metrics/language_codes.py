"""Languages by ISO 639, BCP 47 (pt-BR, zh-Hans) and FLORES-200 codes (deu_Latn).

Source: RFC 5646, section 2.1 (BCP 47).
"""

import dataclasses
import re

from finetune_scaling.errors import DataError

# English name and further codes by ISO 639-1 code: ISO 639-3, also of a macrolanguage's usual member, and 639-2/B.
_TWO_LETTERS = {
    "af": ("Afrikaans", "afr"), "am": ("Amharic", "amh"), "ar": ("Arabic", "ara arb"), "as": ("Assamese", "asm"),
    "az": ("Azerbaijani", "aze azj"), "ba": ("Bashkir", "bak"), "be": ("Belarusian", "bel"), "bg": ("Bulgarian", "bul"),
    "bm": ("Bambara", "bam"), "bn": ("Bengali", "ben"), "bo": ("Tibetan", "bod tib"), "br": ("Breton", "bre"),
    "bs": ("Bosnian", "bos"), "ca": ("Catalan", "cat"), "cs": ("Czech", "ces cze"), "cy": ("Welsh", "cym wel"),
    "da": ("Danish", "dan"), "de": ("German", "deu ger"), "dz": ("Dzongkha", "dzo"), "ee": ("Ewe", "ewe"),
    "el": ("Greek", "ell gre"), "en": ("English", "eng"), "eo": ("Esperanto", "epo"), "es": ("Spanish", "spa"),
    "et": ("Estonian", "est ekk"), "eu": ("Basque", "eus baq"), "fa": ("Persian", "fas per pes"),
    "fi": ("Finnish", "fin"), "fj": ("Fijian", "fij"), "fo": ("Faroese", "fao"), "fr": ("French", "fra fre"),
    "ga": ("Irish", "gle"), "gd": ("Scottish Gaelic", "gla"), "gl": ("Galician", "glg"), "gn": ("Guarani", "grn"),
    "gu": ("Gujarati", "guj"), "ha": ("Hausa", "hau"), "he": ("Hebrew", "heb"), "hi": ("Hindi", "hin"),
    "hr": ("Croatian", "hrv"), "ht": ("Haitian Creole", "hat"), "hu": ("Hungarian", "hun"),
    "hy": ("Armenian", "hye arm"), "id": ("Indonesian", "ind"), "ig": ("Igbo", "ibo"), "is": ("Icelandic", "isl ice"),
    "it": ("Italian", "ita"), "ja": ("Japanese", "jpn"), "jv": ("Javanese", "jav"), "ka": ("Georgian", "kat geo"),
    "kg": ("Kikongo", "kon"), "ki": ("Kikuyu", "kik"), "kk": ("Kazakh", "kaz"), "km": ("Khmer", "khm"),
    "kn": ("Kannada", "kan"), "ko": ("Korean", "kor"), "ku": ("Kurdish", "kur kmr"), "ky": ("Kyrgyz", "kir"),
    "la": ("Latin", "lat"), "lb": ("Luxembourgish", "ltz"), "lg": ("Ganda", "lug"), "li": ("Limburgish", "lim"),
    "ln": ("Lingala", "lin"), "lo": ("Lao", "lao"), "lt": ("Lithuanian", "lit"), "lv": ("Latvian", "lav lvs"),
    "mg": ("Malagasy", "mlg plt"), "mi": ("Maori", "mri mao"), "mk": ("Macedonian", "mkd mac"),
    "ml": ("Malayalam", "mal"), "mn": ("Mongolian", "khk mon"), "mr": ("Marathi", "mar"),
    "ms": ("Malay", "msa may zsm"), "mt": ("Maltese", "mlt"), "my": ("Burmese", "mya bur"),
    "nb": ("Norwegian Bokmål", "nob"), "ne": ("Nepali", "nep npi"), "nl": ("Dutch", "nld dut"),
    "nn": ("Norwegian Nynorsk", "nno"), "no": ("Norwegian", "nor"), "ny": ("Nyanja", "nya"), "oc": ("Occitan", "oci"),
    "om": ("Oromo", "orm gaz"), "or": ("Odia", "ori ory"), "pa": ("Punjabi", "pan"), "pl": ("Polish", "pol"),
    "ps": ("Pashto", "pbt pus"), "pt": ("Portuguese", "por"), "qu": ("Quechua", "que quy"), "rn": ("Rundi", "run"),
    "ro": ("Romanian", "ron rum"), "ru": ("Russian", "rus"), "rw": ("Kinyarwanda", "kin"), "sa": ("Sanskrit", "san"),
    "sc": ("Sardinian", "srd"), "sd": ("Sindhi", "snd"), "sg": ("Sango", "sag"), "si": ("Sinhala", "sin"),
    "sk": ("Slovak", "slk slo"), "sl": ("Slovenian", "slv"), "sm": ("Samoan", "smo"), "sn": ("Shona", "sna"),
    "so": ("Somali", "som"), "sq": ("Albanian", "sqi alb als"), "sr": ("Serbian", "srp"), "ss": ("Swati", "ssw"),
    "st": ("Southern Sotho", "sot"), "su": ("Sundanese", "sun"), "sv": ("Swedish", "swe"), "sw": ("Swahili", "swa swh"),
    "ta": ("Tamil", "tam"), "te": ("Telugu", "tel"), "tg": ("Tajik", "tgk"), "th": ("Thai", "tha"),
    "ti": ("Tigrinya", "tir"), "tk": ("Turkmen", "tuk"), "tl": ("Tagalog", "tgl"), "tn": ("Tswana", "tsn"),
    "tr": ("Turkish", "tur"), "ts": ("Tsonga", "tso"), "tt": ("Tatar", "tat"), "tw": ("Twi", "twi"),
    "ug": ("Uyghur", "uig"), "uk": ("Ukrainian", "ukr"), "ur": ("Urdu", "urd"), "uz": ("Uzbek", "uzb uzn"),
    "vi": ("Vietnamese", "vie"), "wo": ("Wolof", "wol"), "xh": ("Xhosa", "xho"), "yi": ("Yiddish", "yid ydd"),
    "yo": ("Yoruba", "yor"), "zh": ("Chinese", "cmn zho chi"), "zu": ("Zulu", "zul"),
}  # fmt: skip

# Further languages of FLORES-200, by ISO 639-3 code.
_THREE_LETTERS = {
    "ace": "Acehnese", "acm": "Mesopotamian Arabic", "acq": "Ta'izzi-Adeni Arabic", "aeb": "Tunisian Arabic",
    "ajp": "South Levantine Arabic", "aka": "Akan", "apc": "North Levantine Arabic", "ars": "Najdi Arabic",
    "ary": "Moroccan Arabic", "arz": "Egyptian Arabic", "ast": "Asturian", "awa": "Awadhi", "ayr": "Aymara",
    "azb": "South Azerbaijani", "ban": "Balinese", "bem": "Bemba", "bho": "Bhojpuri", "bjn": "Banjar",
    "bug": "Buginese", "ceb": "Cebuano", "cjk": "Chokwe", "ckb": "Central Kurdish", "crh": "Crimean Tatar",
    "dik": "Dinka", "dyu": "Dyula", "fil": "Filipino", "fon": "Fon", "fur": "Friulian", "fuv": "Nigerian Fulfulde",
    "hne": "Chhattisgarhi", "ilo": "Ilocano", "kab": "Kabyle", "kac": "Kachin", "kam": "Kamba", "kas": "Kashmiri",
    "kbp": "Kabiyè", "kea": "Kabuverdianu", "kmb": "Kimbundu", "knc": "Central Kanuri", "lij": "Ligurian",
    "lmo": "Lombard", "ltg": "Latgalian", "lua": "Luba-Kasai", "luo": "Luo", "lus": "Mizo", "lzh": "Literary Chinese",
    "mag": "Magahi", "mai": "Maithili", "min": "Minangkabau", "mni": "Meitei", "mos": "Mossi", "nan": "Southern Min",
    "nso": "Northern Sotho", "nus": "Nuer", "pag": "Pangasinan", "pap": "Papiamento", "prs": "Dari", "sat": "Santali",
    "scn": "Sicilian", "shn": "Shan", "szl": "Silesian", "taq": "Tamasheq", "tpi": "Tok Pisin", "tum": "Tumbuka",
    "tzm": "Central Atlas Tamazight", "umb": "Umbundu", "vec": "Venetian", "war": "Waray", "wuu": "Wu Chinese",
    "yue": "Cantonese",
}  # fmt: skip

# A, B and C are the artificial languages of data/grammar.
LANGUAGE_NAMES = {
    **dict(zip("ABC", "ABC", strict=True)),
    **{code: name for code, (name, _) in _TWO_LETTERS.items()},
    **_THREE_LETTERS,
}

_TWO_LETTER_CODES = {longer: code for code, (_, codes) in _TWO_LETTERS.items() for longer in codes.split()}

# Subtags are joined by - (BCP 47) or _ (FLORES, POSIX).
_CODE = re.compile(
    r"""
    (?P<private>x(?:-[a-z0-9]{1,8})+)
    | (?P<language>[a-z]{1,3}) (?P<extended>(?:-[a-z]{3}){0,3})
      (?:-(?P<script>[a-z]{4}))? (?:-(?P<region>[a-z]{2}|\d{3}))?
      (?:-(?:[a-z0-9]{5,8}|\d[a-z0-9]{3}))*  # variants
      (?:-[0-9a-wy-z](?:-[a-z0-9]{2,8})+)*  # extensions
      (?:-x(?:-[a-z0-9]{1,8})+)?  # private use
    """,
    re.ASCII | re.IGNORECASE | re.VERBOSE,
)


@dataclasses.dataclass(frozen=True)
class LanguageCode:
    """The subtags of a language code that distinguish written languages.

    Attributes:
      language: ISO 639-1 code if there is one, otherwise ISO 639-3 code, in lower case; a single letter (an artificial
        language) as it is written; a private code (x-klingon) completely.
      script: ISO 15924 code such as Latn, or "".
      region: upper-case ISO 3166-1 or UN M.49 code, or "".
    """

    language: str
    script: str
    region: str


def parse_language_code(code: str) -> LanguageCode:
    """Return the subtags of a code. Raises DataError if it does not have the form of a language code."""
    found = _CODE.fullmatch(code.replace("_", "-"))
    if found is None:
        known = [one for one, name in LANGUAGE_NAMES.items() if name.lower() == code.strip().lower()]
        right = known[0] if known else "one such as de, deu_Latn or pt-BR"
        raise DataError(f"{code!r} is not a language code; give {right}")
    parts = found.groupdict(default="")
    # An extended language subtag names the language itself: zh-yue is yue.
    language = parts["private"] or parts["extended"][-3:] or parts["language"]
    if len(language) > 1:
        language = _TWO_LETTER_CODES.get(language.lower(), language.lower())
    return LanguageCode(language, parts["script"].title(), parts["region"].upper())
