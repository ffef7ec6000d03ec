"""Tables as LaTeX (booktabs): every text escaped, numbers to four digits, long tables over several pages."""

import numbers
from collections.abc import Iterable

import numpy as np
import pandas as pd

LONGEST = 40  # rows that fit on one page
DIGITS = 4
SPECIAL = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "[": "{[}",  # after the end of a line it would be read as an option
    "]": "{]}",
    "\n": " ",
    "\r": " ",
}
_ESCAPES = str.maketrans(SPECIAL)


def latex_table(table: pd.DataFrame, caption: str) -> str:
    """The table to \\input into a paper that uses booktabs (and longtable, beyond LONGEST rows)."""
    numeric = [pd.api.types.is_numeric_dtype(table[c]) and table[c].dtype != bool for c in table.columns]
    columns = "".join("r" if is_number else "l" for is_number in numeric)
    head = _row(str(c).replace("_", " ") for c in table.columns)
    body = [_row(map(_value, row)) for row in table.itertuples(index=False, name=None)]
    rules = [r"\toprule", head, r"\midrule"]
    if len(table) > LONGEST:
        parts = [rf"\begin{{longtable}}{{{columns}}}", rf"\caption{{{escape(caption)}}}\\", *rules, r"\endhead"]
        return "\n".join([*parts, *body, r"\bottomrule", r"\end{longtable}", ""])
    parts = [r"\begin{table}", r"\centering", rf"\caption{{{escape(caption)}}}", rf"\begin{{tabular}}{{{columns}}}"]
    return "\n".join([*parts, *rules, *body, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


def escape(text: str) -> str:
    """Text that LaTeX sets as it is."""
    return text.translate(_ESCAPES)


def _row(cells: Iterable[str]) -> str:
    return " & ".join(map(escape, cells)) + r" \\"


def _value(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "--"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, numbers.Integral):
        return str(value)
    if isinstance(value, numbers.Real):
        return f"{float(value):.{DIGITS}g}"
    return str(value)
