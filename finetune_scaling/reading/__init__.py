"""Runs and studies to read from a program or a notebook: pandas frames, and texts on demand.

from finetune_scaling.reading import load_run, load_study

study = load_study("runs/quickstart")
run = study.run(study.runs["loss"].idxmin())
run.curves, run.samples(), run.generate(["a text"])

Nothing is written or locked, what is not asked for is not read, and JAX is imported only when a model is.
"""

from finetune_scaling.reading.run import Run, load_run
from finetune_scaling.reading.study import Study, load_study

__all__ = ["Run", "Study", "load_run", "load_study"]
