"""The study command with a placeholder for the report, whose fits take longer than a tiny study: same flags."""

import runpy
import sys
from pathlib import Path
from typing import Any

from finetune_scaling.report import study_report


def fit_study(points: Path, out: Path, **_: Any) -> None:
    out.mkdir(exist_ok=True)
    (out / "fit.json").write_text('{"fits": []}')  # a directory without it is not that of a report
    (out / "report.html").touch()


study_report.fit_study = fit_study
study_report.print_summary = lambda fitted: None
sys.argv[0] = "study"  # absl names the flags of the command by it
runpy.run_module("finetune_scaling.study", run_name="__main__", alter_sys=True)
