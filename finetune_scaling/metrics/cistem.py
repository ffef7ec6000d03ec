"""The German stemmer Cistem, case-insensitive variant.

Source: L. Weissweiler and A. Fraser, "Developing a Stemmer for German Based on a Comparative Analysis of Publicly
Available Stemmers", GSCL 2017, section 4.
"""

import re

# Letter groups that must not be split; each is replaced by one private-use character during stripping.
_GROUPS = (("sch", "\ue000"), ("ei", "\ue001"), ("ie", "\ue002"))
_SECOND_OF_DOUBLE = "\ue003"
_UMLAUTS = str.maketrans({"ä": "a", "ö": "o", "ü": "u", "ß": "ss"})

_PREFIX = re.compile(r"^ge(?=.{4})")
_DOUBLE = re.compile(r"(.)\1")
_ENCODED_DOUBLE = re.compile(f"(.){_SECOND_OF_DOUBLE}")
_LONG_SUFFIX = re.compile(r"(?:em|er|nd)$")
_SHORT_SUFFIX = re.compile(r"[tesn]$")


def stem(word: str) -> str:
    """Return the stem of a German word, in lower case and without umlauts: "Häusern" -> "hau", "gelaufen" -> "lauf"."""
    word = _PREFIX.sub("", word.lower().translate(_UMLAUTS))
    return _decode_groups(_strip_suffixes(_encode_groups(word)))


def _strip_suffixes(word: str) -> str:
    """Strip suffixes while the word has more than three characters (five for long suffixes)."""
    while len(word) > 3:
        shorter = _LONG_SUFFIX.sub("", word) if len(word) > 5 else word
        if shorter == word:
            shorter = _SHORT_SUFFIX.sub("", word)
        if shorter == word:
            break
        word = shorter
    return word


def _encode_groups(word: str) -> str:
    for letters, encoded in _GROUPS:
        word = word.replace(letters, encoded)
    return _DOUBLE.sub(rf"\1{_SECOND_OF_DOUBLE}", word)


def _decode_groups(word: str) -> str:
    word = _ENCODED_DOUBLE.sub(r"\1\1", word)
    for letters, encoded in _GROUPS:
        word = word.replace(encoded, letters)
    return word
