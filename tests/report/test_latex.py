"""Tables as LaTeX: escaped so that it is set as it is, one cell a column, numbers to four digits."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_scaling.report.latex import LONGEST, SPECIAL, escape, latex_table

HOSTILE = r'\input{x} 50 % & $5 #1 a_b ~ ^ {<|"[*]>}'


@given(st.text(alphabet=st.sampled_from([*SPECIAL, "a", "1", " ", "ß"]), max_size=30))
def test_escaping_can_be_undone(text: str) -> None:
    undo = {value: key for key, value in SPECIAL.items() if key not in "\n\r"}
    pattern = "|".join(map(re.escape, sorted(undo, key=len, reverse=True)))
    assert re.sub(pattern, lambda m: undo[m[0]], escape(text)) == text.replace("\n", " ").replace("\r", " ")


def test_no_special_character_is_left_bare() -> None:
    bare = re.sub(
        r"\\(textbackslash|textasciitilde|textasciicircum|textless|textgreater|textbar|textquotedbl)\{\}",
        "",
        escape(HOSTILE),
    )
    bare = re.sub(r"\\[{}&%$#_]|\{\[\}|\{\]\}", "", bare)
    assert not set(bare) & set(SPECIAL)


def test_a_table_has_its_cells() -> None:
    table = pd.DataFrame(
        {"task": [HOSTILE, None], "n": [3, 40000], "loss": [1.234567, np.nan], "held_out": [True, False]}
    )
    text = latex_table(table, "a_b")
    assert r"\begin{tabular}{lrrl}" in text
    assert r"task & n & loss & held out \\" in text
    assert rf"{escape(HOSTILE)} & 3 & 1.235 & yes \\" in text
    assert r"-- & 40000 & -- & no \\" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1


def test_a_long_table_runs_over_pages() -> None:
    text = latex_table(pd.DataFrame({"x": range(LONGEST + 1)}), "long")
    assert r"\begin{longtable}{r}" in text
    assert r"\endhead" in text
    assert "tabular" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex (Debian: texlive-latex-base)")
def test_latex_sets_it(tmp_path: Path) -> None:
    tables = [latex_table(pd.DataFrame({"a_b": [HOSTILE] * n, "v": [1.5] * n}), HOSTILE) for n in (2, LONGEST + 1)]
    text = r"\documentclass{article}\usepackage{booktabs,longtable}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "t.tex").write_text(text + "\n".join(tables) + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
