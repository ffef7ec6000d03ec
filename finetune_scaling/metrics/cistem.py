"""The German stemmer Cistem, in its variant that takes no notice of case.

Source: L. Weissweiler and A. Fraser, "Developing a Stemmer for German Based on a Comparative Analysis of Publicly
Available Stemmers", GSCL 2017, section 4.
"""

import re

# Letter groups that must not be cut in two, each held as one character while endings are taken off.
_GROUPS = (("sch", "\ue000"), ("ei", "\ue001"), ("ie", "\ue002"))
_SECOND_OF_DOUBLE = "\ue003"
_UMLAUTS = str.maketrans({"ä": "a", "ö": "o", "ü": "u", "ß": "ss"})

_PREFIX = re.compile(r"^ge(?=.{4})")
_DOUBLE = re.compile(r"(.)\1")
_HELD_DOUBLE = re.compile(f"(.){_SECOND_OF_DOUBLE}")
_LONG_ENDING = re.compile(r"(?:em|er|nd)$")
_SHORT_ENDING = re.compile(r"[tesn]$")


def stem(word: str) -> str:
    """The stem of one German word, in lower case and without umlauts: "Häusern" -> "hau", "gelaufen" -> "lauf"."""
    word = _PREFIX.sub("", word.lower().translate(_UMLAUTS))
    return _release_groups(_without_endings(_hold_groups(word)))


def _without_endings(word: str) -> str:
    """Takes endings off for as long as more than three characters (five for the long endings) are there."""
    while len(word) > 3:
        shorter = _LONG_ENDING.sub("", word) if len(word) > 5 else word
        if shorter == word:
            shorter = _SHORT_ENDING.sub("", word)
        if shorter == word:
            break
        word = shorter
    return word


def _hold_groups(word: str) -> str:
    for letters, held in _GROUPS:
        word = word.replace(letters, held)
    return _DOUBLE.sub(rf"\1{_SECOND_OF_DOUBLE}", word)


def _release_groups(word: str) -> str:
    word = _HELD_DOUBLE.sub(r"\1\1", word)
    for letters, held in _GROUPS:
        word = word.replace(held, letters)
    return word
