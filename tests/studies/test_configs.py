"""Run configs of a study: which fields of the study determine them."""

from pathlib import Path

import pytest

from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.studies import configs, grid
from finetune_scaling.studies.grid import read_study

WORKDIR = Path("study")


@pytest.fixture(scope="module")
def study(tiny_runs):
    return read_study(tiny_runs.config("study", seeds=(0, 3)))


def test_a_base_is_pretrained_once_and_keeps_every_token_count(study):
    config = configs.pretraining_config(study, WORKDIR, configs.Base("grammar", "100k"))
    run_config = read_run_config(config)
    assert run_config.is_base
    assert run_config.model["name"] == "100k"
    assert run_config.limits.max_tokens == max(study.families["grammar"].tokens)
    assert run_config.checkpoint.keep_tokens == study.families["grammar"].tokens
    assert run_config.tokenizer == "study/tokenizers/grammar"
    assert configs.Base("grammar", "100k").directory(WORKDIR) == Path("study/bases/grammar/100k")
    steps = [
        configs.base_step(study, WORKDIR, configs.Base("grammar", "30k"), tokens)
        for tokens in run_config.checkpoint.keep_tokens
    ]
    assert steps == [10, 20]


def test_every_run_has_the_config_of_its_setting(study):
    for run in grid.runs(study):
        setting = run.setting
        run_config = read_run_config(configs.finetuning_config(study, WORKDIR, run))
        assert run_config.finetune_examples == setting.finetune_examples
        assert run_config.base.run == f"study/bases/grammar/{setting.size}"
        assert run_config.base.step == {2560: 10, 5120: 20}[setting.tokens]
        assert (run_config.seeds.data, run_config.seeds.parameters, run_config.seeds.order) == (run.seed,) * 3
        field = {"full": None, "prompt": "length", "lora": "rank"}[setting.method]
        extra = {"lora": {"targets": ["query", "down"]}}.get(setting.method, {})  # of the method's config
        assert run_config.method == {"name": setting.method, **extra} | ({field: setting.pet_size} if field else {})
        assert run_config.limits.max_steps == 8
        assert run_config.tokenizer == "study/tokenizers/grammar"


def test_setting_fields_override_method_fields_which_override_task_fields(tiny_runs):
    method_fields = {"schedule": {"learning_rate": 0.5}, "finetune_examples": 7, "method": {"frequent": 9}}
    config = tiny_runs.config(
        "study",
        tasks={
            "translation": {
                "finetune": {"schedule": {"warmup_steps": 2}},
                "methods": {"prompt": {"config": method_fields}},
            }
        },
    )
    study = read_study(config)
    run = next(run for run in grid.runs(study) if run.setting.method == "prompt")
    run_config = read_run_config(configs.finetuning_config(study, WORKDIR, run))
    assert run_config.schedule_config.learning_rate == 0.5
    assert run_config.schedule_config.warmup_steps == 2
    assert run_config.finetune_examples == run.setting.finetune_examples
    assert run_config.method == {"name": "prompt", "length": run.setting.pet_size, "frequent": 9}


@pytest.mark.parametrize(("method", "option"), [("dora", "rank"), ("prefix", "length"), ("bottleneck", "width")])
def test_the_factor_pet_varies_the_option_that_is_a_methods_size(tiny_runs, method, option):
    methods = {method: {"finetune_examples": (10, 20), "pet_size": 2, "pet_sizes": (2, 3), "factors": ("pet",)}}
    study = read_study(tiny_runs.config("study", tasks={"translation": {"methods": methods}}))
    runs = [run for run in grid.runs(study) if run.setting.method == method]
    blocks = [read_run_config(configs.finetuning_config(study, WORKDIR, run)).method for run in runs]
    assert blocks == [{"name": method, option: size} for size in (2, 2, 3, 3)]


def test_model_size_is_known_without_a_tokenizer(study):
    model = configs.family_model(study.families["grammar"], "100k")
    assert (model.vocab_size, model.layers, model.model_dim) == (256, 1, 48)


def test_expected_flops_grow_with_what_is_computed(study):
    model = configs.family_model(study.families["grammar"], "30k")
    by_method = {}
    for run in grid.runs(study):
        if (run.setting.size, run.setting.tokens, run.setting.finetune_examples) == ("30k", 5120, 20):
            run_config = read_run_config(configs.finetuning_config(study, WORKDIR, run))
            by_method[run.setting.method, run.setting.pet_size] = configs.expected_flops(run_config, model, 20)
    # Frozen weights need no gradients: 2 instead of 3 times the FLOPs of the forward pass, except in attention.
    assert 1.4 < by_method["full", None] / by_method["lora", 2] <= 1.5
    assert by_method["lora", 2] < by_method["prompt", 2] < by_method["prompt", 3]
    assert configs.pretraining_flops(study, WORKDIR, configs.Base("grammar", "100k")) > 0
