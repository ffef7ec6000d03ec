"""The one form of numbers in tables: digits 0 to 9, a decimal point, an exponent.

Other forms are refused: `float` would also read 1_000, full-width and Arabic digits, nan and infinity, and turn 1e400
into infinity.
"""

import math
import re

DECIMAL = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
INTEGER = re.compile(r"([+-]?\d+)(\.0*)?", re.ASCII)
# An integer to some readers, and one with decimals to others: 125.000.
GROUPED = re.compile(r"[+-]?[1-9]\d{0,2}(\.\d{3})+", re.ASCII)
MAX_EXACT = 2**53  # floats hold every integer below it
MAX_DIGITS = 30  # of an integer that is converted exactly
FINITE = "give a finite number such as -1.5 or 2e6"
AN_INTEGER = "give an integer of at most 64 bits"
UNGROUPED = "its point could separate thousands or decimals; write the integer without a point"

# Cells that are numbers elsewhere, and what to write instead; the first match counts.
_OTHER_FORMS = (
    (
        re.compile(r"[+-]?\d[\d.,'’_ ]*\d", re.ASCII),
        "its separators could mean thousands or decimals; write it as 1234.5, with a decimal point and no separators",
    ),
    (re.compile(r"[\u2010-\u2015\u2212][\d.].*"), f"{FINITE}, with - (U+002D) as minus sign"),
    (re.compile(r"[+-]?0[xbo][0-9a-f]+", re.IGNORECASE), "write it in decimal digits"),
    (
        re.compile(r"[+-]?[\d.,]+(e[+-]?\d+)?\s?(%|[a-z]+)", re.IGNORECASE | re.ASCII),
        "write the number without a unit: 7B is 7e9, 5 % is 0.05",
    ),
)


def read_number(cell: str) -> float:
    """Return the number in a cell. Raises ValueError with what to write instead."""
    if DECIMAL.fullmatch(cell):
        value = float(cell)
        if math.isinf(value):
            raise ValueError(f"no float is so large; {FINITE}")
        if value == 0 and re.search("[1-9]", re.split("e", cell, flags=re.IGNORECASE)[0]):
            raise ValueError("no float is so close to zero; write 0 or a larger number")
        return value
    if any(character.isdecimal() and not character.isascii() for character in cell):
        raise ValueError("write it with the digits 0 to 9")
    raise ValueError(next((fix for form, fix in _OTHER_FORMS if form.fullmatch(cell)), FINITE))


def read_integer(cell: str) -> int:
    """Return the integer in a cell (0, 00, 0.0 and 0e0 are one), exactly. Raises ValueError as read_number."""
    value = read_number(cell)
    if GROUPED.fullmatch(cell):
        raise ValueError(UNGROUPED)
    found = INTEGER.fullmatch(cell)
    if found and len(found[1]) <= MAX_DIGITS:
        return int(found[1])
    if not value.is_integer() or abs(value) >= MAX_EXACT:
        raise ValueError(AN_INTEGER)
    return int(value)


def is_exact(cell: str) -> bool:
    """Return whether a float holds the integer in a cell exactly; other numbers are read as the nearest float."""
    found = INTEGER.fullmatch(cell)
    return (
        not found or abs(value := float(cell)) < MAX_EXACT or (len(found[1]) <= MAX_DIGITS and value == int(found[1]))
    )
