"""Full-model tuning (FMT): everything trains. Pretraining uses it too."""

import dataclasses

from finetune_scaling.tuning.method import Defaults, Method, Tuning


@dataclasses.dataclass(frozen=True)
class FullOptions:
    """Full tuning has no options."""


def build(options: FullOptions) -> Tuning:
    return Tuning(name="full", trainable=".*")


METHOD = Method("full", FullOptions, build, Defaults(learning_rate=1e-3, batch_size=128))
