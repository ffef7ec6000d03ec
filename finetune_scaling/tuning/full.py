"""Full-model tuning (FMT): every parameter trains. Pretraining uses it too."""

import dataclasses

from finetune_scaling.tuning.method import Defaults, MethodSpec, ShortRuns, TuningMethod


@dataclasses.dataclass(frozen=True)
class FullOptions:
    """Full tuning has no options."""


def build(options: FullOptions) -> TuningMethod:
    """Return full-model tuning with these options."""
    return TuningMethod(name="full", trainable=".*")


SPEC = MethodSpec(
    "full",
    FullOptions,
    build,
    Defaults(learning_rate=1e-3, batch_size=128),
    display_name="full tuning",
    short_runs=ShortRuns(learning_rate=0.005),
)
