"""Languages by ISO 639, BCP 47 (pt-BR, zh-Hans) and FLORES-200 codes (deu_Latn), read by langcodes."""

import re
from typing import NamedTuple

import langcodes

from finetune_scaling.errors import DataError


class LanguageCode(NamedTuple):
    """The subtags of a language code that distinguish written languages.

    language: ISO 639-1 code if there is one, otherwise ISO 639-3 code, of the macrolanguage if it has one; a single
    letter (an artificial language) as it is written; a private code (x-klingon) completely.
    script: ISO 15924 code such as Latn; empty if it is the language's usual one. region: ISO 3166-1 or UN M.49 code.
    """

    language: str
    script: str = ""
    region: str = ""

    @property
    def likely_script(self) -> str:
        """The script that texts in this language are most likely written in; empty if it is unknown."""
        return self.script or (self._known.maximize().script or "" if self.is_registered else "")

    @property
    def english_name(self) -> str | None:
        """The English name with script and region, "Portuguese (Brazil)"; None if a part of it is unknown."""
        if not self.is_registered:
            return self.language if len(self.language) == 1 else None
        name = self._known.display_name()
        return None if "Unknown" in name else name

    @property
    def is_registered(self) -> bool:
        """Whether ISO 639 has the language, unlike artificial and private ones."""
        return len(self.language) in (2, 3)

    @property
    def _known(self) -> langcodes.Language:
        return langcodes.Language.make(self.language, script=self.script or None, territory=self.region or None)


def parse_language_code(code: str) -> LanguageCode:
    """Return the subtags of a code. Raises DataError if it does not have the form of a language code."""
    if re.fullmatch("[A-Za-z]", code):
        return LanguageCode(code)
    try:
        if not re.fullmatch(r"[A-Za-z0-9]+([-_][A-Za-z0-9]+)*", code):  # langcodes accepts other characters
            raise langcodes.LanguageTagError
        found = langcodes.Language.get(langcodes.standardize_tag(code, macro=True))
    except langcodes.LanguageTagError:
        raise DataError(f"{code!r} is not a language code; give {_code_of_name(code)}") from None
    if found.language is None:
        return LanguageCode(code.lower().replace("_", "-"))
    return LanguageCode(found.language, found.script or "", found.territory or "")


def _code_of_name(name: str) -> str:
    """Return the code of an English name, or what a code looks like."""
    try:
        return langcodes.find(name.strip(), language="en").language or ""
    except LookupError:
        return "one such as de, deu_Latn or pt-BR"
