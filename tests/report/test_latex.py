"""Tables as LaTeX: every text escaped, one column per table column, four digits."""

import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from finetune_scaling.report.tables import MAX_ROWS, latex_table

HOSTILE = r'\input{x} 50 % & $5 #1 a_b ~ ^ {<|"[*]>}'


def test_a_table_has_its_cells() -> None:
    table = pd.DataFrame(
        {"task": ["one", None], "n": [3, 40000], "loss": [1.234567, np.nan], "held_out": [True, False]}
    )
    text = latex_table(table, "caption")
    assert r"\begin{tabular}{lrrl}" in text
    assert r"task & n & loss & held out \\" in text
    assert r"one & 3 & 1.235 & yes \\" in text
    assert r"-- & 40000 & -- & no \\" in text
    for rule in ("toprule", "midrule", "bottomrule"):
        assert text.count(rf"\{rule}") == 1


def test_text_is_escaped() -> None:
    text = latex_table(pd.DataFrame({"a": [HOSTILE], "b": ["second"]}), "caption")
    (cell,) = re.findall(r"^(.*) & second", text, flags=re.MULTILINE)
    plain = re.sub(r"\\[a-z]+(\{\}| )?|\\[{}&%$#_]|\{\[\}", "", cell)  # without commands
    assert not set(plain) & set(r"\{}&%$#_~^<>|[")
    assert "input" in plain


def test_a_long_table_runs_over_pages() -> None:
    text = latex_table(pd.DataFrame({"x": range(MAX_ROWS + 1)}), "long")
    assert r"\begin{longtable}{r}" in text
    assert "tabular" not in text


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no pdflatex (Debian: texlive-latex-base)")
def test_latex_compiles_the_tables(tmp_path: Path) -> None:
    tables = [latex_table(pd.DataFrame({"a_b": [HOSTILE] * n, "v": [1.5] * n}), "caption") for n in (2, MAX_ROWS + 1)]
    text = r"\documentclass{article}\usepackage{booktabs,longtable}\usepackage[T1]{fontenc}\begin{document}"
    (tmp_path / "t.tex").write_text(text + "\n".join(tables) + r"\end{document}")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "t.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
