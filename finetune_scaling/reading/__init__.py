"""Read runs and studies from a program or a notebook, as pandas frames and generated texts.

    from finetune_scaling.reading import load_run, load_study

    study = load_study("runs/quickstart")
    run = study.run(study.runs["loss"].idxmin())
    run.curves, run.samples(), run.generate(["a text"])

Nothing is written or locked, everything is read on demand, and JAX is imported only with a model.
"""

from finetune_scaling.reading.run import Run, load_run
from finetune_scaling.reading.study import Study, load_study

__all__ = ["Run", "Study", "load_run", "load_study"]
