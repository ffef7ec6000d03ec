"""What the metrics need to know of a language: its code, and whether it is written without spaces."""

import re

from finetune_scaling.errors import DataError

WRITTEN_WITHOUT_SPACES = ("zh", "ja")

_THREE_LETTER_CODES = {"deu": "de", "eng": "en", "jpn": "ja", "zho": "zh", "cmn": "zh"}


def base_language(code: str) -> str:
    """The lower-case language of a code: "zh" for "zh", "zh_CN", "ZH-Hans" and "zho_Hans"; "a" for the grammar's "A".

    Raises:
      DataError: `code` is not a language code, such as the name "German".
    """
    language = re.split(r"[-_]", code)[0].lower()
    if not re.fullmatch(r"[a-z]{1,3}", language):
        raise DataError(f"target language {code!r} is not a language code; give one such as en, de or zh")
    return _THREE_LETTER_CODES.get(language, language)
