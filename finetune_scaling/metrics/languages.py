"""What the metrics need to know of a language: its code, and whether it is written without spaces."""

import re

from finetune_scaling.errors import DataError

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

# Thai, Lao, Khmer, Burmese, Tibetan, Dzongkha, Shan: no spaces between words either, and no character is a word.
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
    "kor": "ko",
    "tha": "th",
    "lao": "lo",
    "khm": "km",
    "mya": "my",
    "bod": "bo",
    "dzo": "dz",
}


def base_language(code: str) -> str:
    """The lower-case language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "a" for the grammar's "A".

    Raises:
      DataError: `code` is not a language code, such as the name "German".
    """
    language = re.split(r"[-_]", code)[0].lower()
    if not re.fullmatch(r"[a-z]{1,3}", language):
        raise DataError(f"target language {code!r} is not a language code; give one such as en, de or zh")
    return _THREE_LETTER_CODES.get(language, language)


def check_tokenizer(metric: str, language: str) -> None:
    """Raises DataError where a metric of words is asked for a language whose words nothing here finds."""
    if base_language(language) in WITHOUT_TOKENIZER:
        raise DataError(
            f"{metric}: language {language!r} is written without spaces and has no tokenizer here, so that a sentence "
            "would count as one word; take --metrics=bleu-char,chrf"
        )
