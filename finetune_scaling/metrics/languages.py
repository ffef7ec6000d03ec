"""Languages of texts, and whether a language is written with spaces between words."""

from finetune_scaling.errors import DataError
from finetune_scaling.metrics.language_codes import parse_language_code

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

# Thai, Lao, Khmer, Burmese, Tibetan, Dzongkha, Shan: no spaces between words, and characters are not words.
WITHOUT_TOKENIZER = ("th", "lo", "km", "my", "bo", "dz", "shn")

# Cantonese, Wu, literary Chinese and Southern Min are written in the same characters.
_WRITTEN_IN_CHINESE = ("zh", "yue", "wuu", "lzh", "nan")


def language_of(code: str) -> str:
    """Return the written language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "yue" for "yue_Hant".

    Languages without spaces have them in Latin script, so "zh-Latn" is "zh-Latn", a language of words.

    Raises:
      DataError: `code` is not a language code, e.g. the name "German".
    """
    parsed = parse_language_code(code)
    without_spaces = (*WRITTEN_WITHOUT_SPACES, *WITHOUT_TOKENIZER, *_WRITTEN_IN_CHINESE)
    romanized = parsed.script == "Latn" and parsed.language in without_spaces
    return f"{parsed.language}-Latn" if romanized else parsed.language


def check_language(code: str, where: str) -> None:
    """Raise DataError that names `where` if a code is not a language code."""
    try:
        language_of(code)
    except DataError as error:
        raise DataError(f"{where} = {error}") from None


def tokenizer_language(code: str) -> str:
    """Return the language whose tokenizers apply to a code: "zh" for the other Chinese languages, too.

    Raises the error of `language_of`.
    """
    language = language_of(code)
    return "zh" if language in _WRITTEN_IN_CHINESE else language


def check_tokenizer(metric: str, language: str) -> None:
    """Raise DataError if a word-based metric is used for a language without a tokenizer."""
    if tokenizer_language(language) in WITHOUT_TOKENIZER:
        raise DataError(
            f"{metric}: language {language!r} is written without spaces and no tokenizer is available, so a "
            "sentence would count as one word; use --metrics=bleu-char,chrf"
        )
