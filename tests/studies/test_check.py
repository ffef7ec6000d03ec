"""Errors anywhere in a study's config are reported before training."""

import pytest

from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.studies.check import check_runs
from finetune_scaling.studies.grid import read_study, runs


def check(config, workdir):
    study = read_study(config)
    check_runs(study, workdir, runs(study))


def test_a_valid_study_passes_and_creates_no_files(tiny_runs, tmp_path):
    check(tiny_runs.config("study"), tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field_path", "value", "kind", "message"),
    [
        (
            "tasks.translation.finetune.limits.max_stepz", 3, ConfigError,
            r"tasks.translation.methods.full: config.limits.max_stepz is not a field .* did you mean 'max_steps'",
        ),
        ("tasks.translation.finetune.batch.accumulation", 0, ConfigError, r"batch.accumulation = 0 must be at least 1"),
        ("tasks.translation.methods.lora.config.schedule.learning_rate", -1.0, ConfigError, r"methods.lora: .*= -1"),
        ("families.grammar.pretrain.batch.sise", 3, ConfigError, r"families.grammar.pretrain: .*batch.sise"),
        (
            "tasks.translation.methods.full.finetune_examples", (10, 61), DataError,
            r"methods.full: finetune_examples = 61, but the data has 60",
        ),
        ("tasks.translation.methods.full.finetune_examples", (0, 10), ConfigError, r"\[0, 10\] must be positive"),
        ("tasks.translation.task.dev", [], DataError, r"methods.full: task tiny has no split 'dev'; it has train"),
        ("tasks.translation.task.test", {}, ConfigError, r"methods.full: task tiny has no test set"),
        ("tasks", {}, ConfigError, "tasks must have at least one task"),
        ("tasks.translation.methods", {}, ConfigError, "each task at least one method"),
        ("seeds", (0, -1), ConfigError, r"seeds = \[0, -1\] must be at least one, distinct and not negative"),
        ("families.grammar.model.max_length", 33, ConfigError, r"methods.prompt: .*soft prompt of 2 make 34 tokens"),
    ],
)  # fmt: skip
def test_an_error_names_the_field(tiny_runs, tmp_path, field_path, value, kind, message):
    config = tiny_runs.config("study")
    *groups, name = field_path.split(".")
    block = config
    for group in groups:
        block = block.setdefault(group, {})
    block[name] = value
    if name == "finetune_examples":
        block["held_out_examples"] = ()
    with pytest.raises(kind, match=message):
        check(config, tmp_path)


def test_a_wrong_source_field_is_an_error(tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    config["tasks"]["translation"]["task"]["dev"][0]["source_field"] = "sorce"
    with pytest.raises((ConfigError, DataError), match=r"tasks.translation.methods.full: .*sorce"):
        check(config, tmp_path)
    config = tiny_runs.config("study")
    config["families"]["grammar"]["pretrain"]["corpus"]["train"][0]["field"] = "txt"
    with pytest.raises((ConfigError, DataError), match=r"families.grammar.pretrain: .*txt"):
        check(config, tmp_path)
