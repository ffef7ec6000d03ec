"""Language codes, and whether a language is written with spaces between words."""

import re

from finetune_scaling.errors import DataError

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

# Thai, Lao, Khmer, Burmese, Tibetan, Dzongkha, Shan: no spaces between words, and characters are not words.
WITHOUT_TOKENIZER = ("th", "lo", "km", "my", "bo", "dz", "shn")

# ISO 639-3 codes of languages that have a code of two letters, and of macrolanguages' usual members.
TWO_LETTER_CODES = {
    "afr": "af", "amh": "am", "ara": "ar", "arb": "ar", "asm": "as", "aze": "az", "azj": "az", "bak": "ba", "bam": "bm",
    "bel": "be", "ben": "bn", "bod": "bo", "bos": "bs", "bre": "br", "bul": "bg", "cat": "ca", "ces": "cs", "cmn": "zh",
    "cym": "cy", "dan": "da", "deu": "de", "dzo": "dz", "ell": "el", "eng": "en", "epo": "eo", "est": "et", "eus": "eu",
    "ewe": "ee", "fao": "fo", "fas": "fa", "fij": "fj", "fin": "fi", "fra": "fr", "gla": "gd", "gle": "ga", "glg": "gl",
    "grn": "gn", "guj": "gu", "hat": "ht", "hau": "ha", "heb": "he", "hin": "hi", "hrv": "hr", "hun": "hu", "hye": "hy",
    "ibo": "ig", "ind": "id", "isl": "is", "ita": "it", "jav": "jv", "jpn": "ja", "kan": "kn", "kat": "ka", "kaz": "kk",
    "khk": "mn", "khm": "km", "kik": "ki", "kin": "rw", "kir": "ky", "kon": "kg", "kor": "ko", "lao": "lo", "lat": "la",
    "lav": "lv", "lim": "li", "lin": "ln", "lit": "lt", "ltz": "lb", "lug": "lg", "lvs": "lv", "mal": "ml", "mar": "mr",
    "mkd": "mk", "mlg": "mg", "mlt": "mt", "mon": "mn", "mri": "mi", "msa": "ms", "mya": "my", "nep": "ne", "nld": "nl",
    "nno": "nn", "nob": "nb", "nor": "no", "npi": "ne", "nya": "ny", "oci": "oc", "ori": "or", "ory": "or", "pan": "pa",
    "pbt": "ps", "pes": "fa", "plt": "mg", "pol": "pl", "por": "pt", "pus": "ps", "que": "qu", "ron": "ro", "run": "rn",
    "rus": "ru", "sag": "sg", "san": "sa", "sin": "si", "slk": "sk", "slv": "sl", "smo": "sm", "sna": "sn", "snd": "sd",
    "som": "so", "sot": "st", "spa": "es", "sqi": "sq", "srd": "sc", "srp": "sr", "ssw": "ss", "sun": "su", "swa": "sw",
    "swe": "sv", "swh": "sw", "tam": "ta", "tat": "tt", "tel": "te", "tgk": "tg", "tgl": "tl", "tha": "th", "tir": "ti",
    "tsn": "tn", "tso": "ts", "tuk": "tk", "tur": "tr", "twi": "tw", "uig": "ug", "ukr": "uk", "urd": "ur", "uzb": "uz",
    "uzn": "uz", "vie": "vi", "wol": "wo", "xho": "xh", "ydd": "yi", "yor": "yo", "zho": "zh", "zsm": "ms", "zul": "zu",
    "als": "sq", "gaz": "om", "kmr": "ku", "quy": "qu",
}  # fmt: skip

# Cantonese, Wu, literary Chinese and Southern Min are written in the same characters.
_CHINESE = ("yue", "wuu", "lzh", "nan")


def base_language(code: str) -> str:
    """Return the lower-case language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "a" for "A".

    Languages without spaces have them in Latin script, so "zh-Latn" is "zh-latn", a language of words.

    Raises:
      DataError: `code` is not a language code, e.g. the name "German".
    """
    language, *others = re.split(r"[-_]", code.lower())
    if not re.fullmatch(r"[a-z]{1,3}", language):
        raise DataError(f"target language {code!r} is not a language code; give one such as en, de or zh")
    language = "zh" if language in _CHINESE else TWO_LETTER_CODES.get(language, language)
    romanized = "latn" in others[:1] and language in (*WRITTEN_WITHOUT_SPACES, *WITHOUT_TOKENIZER)
    return f"{language}-latn" if romanized else language


def check_tokenizer(metric: str, language: str) -> None:
    """Raise DataError if a word-based metric is used for a language without a tokenizer."""
    if base_language(language) in WITHOUT_TOKENIZER:
        raise DataError(
            f"{metric}: language {language!r} is written without spaces and no tokenizer is available, so a "
            "sentence would count as one word; use --metrics=bleu-char,chrf"
        )
