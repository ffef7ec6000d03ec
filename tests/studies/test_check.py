"""Errors anywhere in a study's config are reported before training."""

import json
import runpy
from pathlib import Path

import pytest

from finetune_scaling.configuration import merge
from finetune_scaling.data import loader
from finetune_scaling.errors import ConfigError, DataError
from finetune_scaling.studies.check import check_runs, check_with_tokenizers
from finetune_scaling.studies.data_record import check_same_data
from finetune_scaling.studies.grid import read_study, runs

TINY = runpy.run_path(str(Path(__file__).parents[1] / "tiny.py"))
text, pairs = TINY["text"], TINY["pairs"]

# The smallest dataset has 10 examples: 3 epochs of 10 / 8 steps.
WARM_UP = r"methods.lora: schedule.warmup_steps = 5 is more than the run's 4 steps \(set by limits.max_epochs\)"


def check(config, workdir):
    study = read_study(config)
    check_runs(study, workdir, runs(study))


def test_all_processes_of_a_study_train_on_the_data_that_was_first_read(tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    study = read_study(config)
    check_same_data(study, tmp_path, runs(study)[:1])
    check_same_data(study, tmp_path, runs(study))
    recorded = json.loads((tmp_path / "data.json").read_text())
    assert {name: set(splits) for name, splits in recorded.items()} == {
        "families.grammar": {"train", "dev"},
        "tasks.translation": {"train", "dev", "test"},
    }
    changed = {
        "families.grammar": merge(
            config, {"families": {"grammar": {"pretrain": {"corpus": {"dev": [text("dev", 29)]}}}}}
        ),
        "tasks.translation": merge(config, {"tasks": {"translation": {"task": {"test": {"test": pairs("test", 19)}}}}}),
    }
    for field, other in changed.items():
        split = "test" if field == "tasks.translation" else "dev"
        with pytest.raises(DataError, match=rf"{field}: the data of split {split} changed .* Fix: restore"):
            check_same_data(read_study(other), tmp_path, runs(study))
    assert json.loads((tmp_path / "data.json").read_text()) == recorded


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
        ("tasks.translation.finetune", {}, ConfigError, r"tasks.translation.finetune.sequence is missing"),
        ("tasks", {}, ConfigError, "tasks must have at least one task"),
        ("tasks.translation.methods", {}, ConfigError, "each task at least one method"),
        ("seeds", (0, -1), ConfigError, r"seeds = \[0, -1\] must be at least one, distinct and not negative"),
        ("families.grammar.model.max_length", 33, ConfigError, r"methods.prompt: .*34 tokens with a soft prompt of 2"),
        ("families.grammar.model.max_length", 31, ConfigError, r"families.grammar.pretrain: sequence.length = 32"),
        (
            "families.grammar.tokens", (2560, 2561, 5120), ConfigError,
            r"families.grammar.pretrain: checkpoint.keep_tokens = .* are the same step",
        ),
        ("families.grammar.tokens", (1, 5120), ConfigError, r"families.grammar.pretrain: .*between one step \(256"),
        (
            "families.grammar.pretrain.schedule.warmup_steps", 21, ConfigError,
            r"families.grammar.pretrain: schedule.warmup_steps = 21 is more than the run's 20 steps",
        ),
        (
            "tasks.translation.methods.lora.config.limits", {"max_epochs": 3, "max_steps": None}, ConfigError, WARM_UP,
        ),
        (
            "tasks.translation.finetune.sharding", {"fsdp": 2}, ConfigError,
            r"methods.full: sharding.fsdp = 2 .* does not divide the 1 devices",
        ),
        ("tasks.translation.finetune.logging", {"writers": ("wandbb",)}, ConfigError, "did you mean 'wandb'"),
        ("tasks.translation.finetune.model", {"attention": "flash"}, ConfigError, "methods.full: .* needs a TPU"),
        (
            "tasks.translation.finetune.optimizer", {"learning_rate_multipliers": ((r".*lora_a", 2.0),)}, ConfigError,
            r"methods.full: learning-rate multiplier '.*lora_a' matches no trainable parameter",
        ),
        (
            "tasks.translation.finetune.evaluation",
            {"generate_examples": 2, "decoding": {"max_new_tokens": 44}}, ConfigError,
            r"methods.prompt: decoding.max_new_tokens = 44 after prompts of up to \d+ tokens: .* a soft prompt",
        ),
        (
            "tasks.translation.finetune.evaluation",
            {"generate_examples": 2, "decoding": {"method": "beam", "beams": 129}}, ConfigError,
            r"methods.full: decoding.beams = 129 needs a vocabulary of at least 258",
        ),
        (
            "tasks.translation.finetune.evaluation",
            {"evaluators": {"mine": {"kind": "text", "length": 63}}}, ConfigError,
            r"methods.prompt: evaluator mine: sequences of 63 tokens .*: 65 tokens",
        ),
    ],
)  # fmt: skip
def test_an_error_names_the_field(tiny_runs, tmp_path, field_path, value, kind, message):
    config = tiny_runs.config("study")
    if message == WARM_UP:
        config["tasks"]["translation"]["finetune"]["schedule"] = {"warmup_steps": 5}
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


def test_what_a_tokenizer_determines_is_an_error_once_the_tokenizer_exists(tiny_runs, tmp_path, monkeypatch):
    config = tiny_runs.config("study")
    config["families"]["grammar"]["tokenizer"] = str(tiny_runs.tokenizer)
    finetune = config["tasks"]["translation"]["finetune"]
    finetune["evaluation"] = {"decoding": {"stop": ("x", " ")}}  # as every target begins
    study = read_study(config)
    with pytest.raises(ConfigError, match=r"methods.full: decoding.stop has ' '"):
        check_with_tokenizers(study, tmp_path, runs(study))
    finetune["evaluation"] = {"evaluators": {"few_shot_5": {"examples": 2, "generate": 0}}}
    study = read_study(config)
    with pytest.raises(ConfigError, match=r"methods.full: evaluator few_shot_5: .*context length, max_length = 64"):
        check_with_tokenizers(study, tmp_path, runs(study))
    config["families"]["grammar"]["pretrain"]["objective"] = {"name": "ul2"}
    study = read_study({**config, "tasks": tiny_runs.config("study")["tasks"]})
    with monkeypatch.context() as patch:
        patch.setattr(loader, "required_sentinels", lambda *_: 17)
        with pytest.raises(ConfigError, match=r"families.grammar.pretrain: ul2 .* the tokenizer has 16 sentinels"):
            check_with_tokenizers(study, tmp_path, runs(study))
    config["families"]["grammar"]["tokenizer"] = {"vocab_size": 256}  # not trained yet
    study = read_study(config)
    check_with_tokenizers(study, tmp_path, runs(study))


def test_steps_of_packed_rows_are_checked_with_the_smallest_dataset(tiny_runs, tmp_path):
    config = tiny_runs.config("study")
    config["families"]["grammar"]["tokenizer"] = str(tiny_runs.tokenizer)
    finetune, methods = (config["tasks"]["translation"][name] for name in ("finetune", "methods"))
    finetune["limits"] = {"max_epochs": 1}
    finetune["schedule"] = {"warmup_steps": 2}  # 10 examples in batches of 8 are 2 steps, unless they are packed
    study = read_study(config)
    check_with_tokenizers(study, tmp_path, runs(study))
    finetune["batch"] = {"size": 8, "pack": True, "row_length": 64}
    study = read_study(config)
    with pytest.raises(ConfigError, match=r"methods.prompt: method.attends_to_input = True: packed texts share"):
        check_runs(study, tmp_path, runs(study))
    methods["prompt"]["config"] = {"method": {"attends_to_input": False}}
    study = read_study(config)
    check_runs(study, tmp_path, runs(study))
    with pytest.raises(ConfigError, match=r"methods.full: schedule.warmup_steps = 2 is more than the run's 1 steps"):
        check_with_tokenizers(study, tmp_path, runs(study))
