"""What a --metrics flag names: metrics of this process, and config files of learned ones."""

from collections.abc import Sequence

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.learned.metric import is_config, read_learned_metric
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.text_metrics import find_metric


def chosen_metrics(names: Sequence[str] | None) -> list[Metric] | None:
    """The metrics of a flag's values; None, which stands for the default ones, where it was not given.

    Raises ConfigError: an unknown name, a config file that is none, a name twice, or none at all.
    """
    if names is None:
        return None
    metrics = [read_learned_metric(name) if is_config(name) else find_metric(name) for name in names]
    if not metrics:
        raise ConfigError("--metrics is empty; name at least one metric, or leave the flag out")
    taken: set[str] = set()
    for metric in metrics:
        if metric.name in taken:
            raise ConfigError(f"--metrics: {metric.name} is named twice; a metric's config has a field `name`")
        taken.add(metric.name)
    return metrics
