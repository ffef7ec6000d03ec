"""What a --metrics flag names: metrics of this process, and config files of learned ones."""

from collections.abc import Sequence

from finetune_scaling.errors import ConfigError
from finetune_scaling.evaluation.learned.metric import is_config, read_learned_metric
from finetune_scaling.evaluation.metric import Metric
from finetune_scaling.evaluation.text_metrics import find_metric


def chosen_metrics(names: Sequence[str] | None) -> list[Metric] | None:
    """The metrics of a flag's values; None, which stands for the default ones, where it was not given.

    Raises ConfigError: an unknown name, a config file that is none, a program that is missing, a name twice, or none at
    all.
    """
    if names is None:
        return None
    metrics = [named_metric(name) for name in names]
    check_distinct([metric.name for metric in metrics])
    return metrics


def named_metric(name: str) -> Metric:
    """One metric, its program looked for. Raises ConfigError as `chosen_metrics` does."""
    if not is_config(name):
        return find_metric(name)
    metric = read_learned_metric(name)
    metric.check_program()
    return metric


def check_distinct(names: Sequence[str]) -> None:
    """Raises ConfigError where there is no name, or one twice: scores are told apart by them."""
    if not names:
        raise ConfigError("--metrics is empty; name at least one metric, or leave the flag out")
    for place, name in enumerate(names):
        if name in names[:place]:
            raise ConfigError(f"--metrics: {name} is named twice; a learned metric's config has a field `name`")
