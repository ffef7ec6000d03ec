"""Language codes, and whether a language is written with spaces between words."""

import re

from finetune_scaling.errors import DataError

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

# Thai, Lao, Khmer, Burmese, Tibetan, Dzongkha, Shan: no spaces between words, and characters are not words.
WITHOUT_TOKENIZER = ("th", "lo", "km", "my", "bo", "dz", "shn")

_THREE_LETTER_CODES = {
    "deu": "de",
    "eng": "en",
    "jpn": "ja",
    "zho": "zh",
    "cmn": "zh",
    "yue": "zh",  # Cantonese, Wu and literary Chinese are written in the same characters
    "wuu": "zh",
    "lzh": "zh",
    "nan": "zh",
    "kor": "ko",
    "tha": "th",
    "lao": "lo",
    "khm": "km",
    "mya": "my",
    "bod": "bo",
    "dzo": "dz",
}


def base_language(code: str) -> str:
    """Return the lower-case language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "a" for "A".

    Languages without spaces have them in Latin script, so "zh-Latn" is "zh-latn", a language of words.

    Raises:
      DataError: `code` is not a language code, e.g. the name "German".
    """
    language, *others = re.split(r"[-_]", code.lower())
    if not re.fullmatch(r"[a-z]{1,3}", language):
        raise DataError(f"target language {code!r} is not a language code; give one such as en, de or zh")
    language = _THREE_LETTER_CODES.get(language, language)
    romanized = "latn" in others[:1] and language in (*WRITTEN_WITHOUT_SPACES, *WITHOUT_TOKENIZER)
    return f"{language}-latn" if romanized else language


def check_tokenizer(metric: str, language: str) -> None:
    """Raise DataError if a word-based metric is used for a language without a tokenizer."""
    if base_language(language) in WITHOUT_TOKENIZER:
        raise DataError(
            f"{metric}: language {language!r} is written without spaces and no tokenizer is available, so a "
            "sentence would count as one word; use --metrics=bleu-char,chrf"
        )
