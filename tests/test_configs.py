"""Every shipped config builds, matches the configs it refers to, and can be changed on the command line."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict

from finetune_scaling.configuration import build, plain
from finetune_scaling.data.objectives import required_sentinels
from finetune_scaling.data.task import load_task
from finetune_scaling.data.tokenizers.training import TokenizerConfig, TokenizerPreparation
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.ladder import model_config
from finetune_scaling.runs.config_template import run_config_template
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.studies.configs import Base, family_model, finetuning_config, pretraining_config
from finetune_scaling.studies.grid import read_study, runs
from finetune_scaling.tuning.registry import METHODS

ROOT = Path(__file__).parent.parent
TASK = ROOT / "configs" / "finetune" / "task.py"
FINETUNE = sorted(path for path in TASK.parent.glob("*.py") if path != TASK)
PRETRAIN = sorted((ROOT / "configs" / "pretrain").glob("*.py"))
STUDY = sorted((ROOT / "configs" / "study").glob("*.py"))
PAIRS = {"bilingual": ("en_de,", "en_zh,")}  # what comes before the size in a pretraining config's argument
PAPER_TASKS = {"wmt14_en_de", "wmt19_en_zh", "mlsum"}


def get_config(path: Path, *argument: str) -> ConfigDict:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(*argument)


def name(path: Path) -> str:
    return path.stem


@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_a_finetuning_config_without_a_size_is_for_any_causal_base(path):
    config = get_config(path, "lora")
    config.base.run = "runs/public/llama"
    run_config = read_run_config(plain(config))
    assert (run_config.name, run_config.tokenizer, run_config.sequence.mode) == ("", "", "")
    assert not run_config.sequence.bidirectional_input


def test_own_data_without_an_argument_is_for_the_given_base(read_command_line):
    config = read_command_line(f"--config={ROOT}/configs/finetune/jsonl.py", "--config.base.run=runs/mine")
    run_config = read_run_config(config)
    assert (run_config.name, run_config.tokenizer, run_config.method["name"]) == ("", "", "lora")


def pretraining_of(base: str) -> tuple[RunConfig, str]:
    """The shipped pretraining whose base a finetuning config names by default, and its config's argument but the size.

    runs/pretrain/debian/800k is made by debian.py:800k, runs/pretrain/en_de/1b by bilingual.py:en_de,1b.
    """
    folder, size = base.removeprefix("runs/pretrain/").split("/")
    shipped = {path.stem: (path, "") for path in PRETRAIN}
    path, front = shipped.get(folder, (ROOT / "configs/pretrain/bilingual.py", f"{folder},"))
    return read_run_config(plain(get_config(path, f"{front}{size}"))), f"{front}{size}"


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("path", FINETUNE, ids=name)
def test_finetuning_configs_fit_their_task_and_base(path, method):
    size = "4b" if path.stem in PAPER_TASKS else "300k"
    run_config = read_run_config(plain(get_config(path, f"{size},{method}")))
    assert run_config.method["name"] == method

    task = load_task(run_config.task)
    limits = run_config.sequence.format(task.max_source_tokens, task.max_target_tokens)
    assert limits.max_input_tokens >= limits.max_source_tokens, "the sequence has no room for the source and a template"

    pretraining, _ = pretraining_of(run_config.base.run)
    assert pretraining.model["name"] == size
    assert pretraining.tokenizer == run_config.tokenizer
    context = model_config(pretraining.model, 1000).max_length
    assert run_config.sequence.length + run_config.tuning.prompt_length <= context
    assert run_config.sequence.bidirectional_input == pretraining.objective.bidirectional_input


def test_the_shared_finetuning_config_takes_the_task_as_argument():
    by_file = get_config(TASK.with_name("debian_en_de.py"), "300k,full")
    assert plain(get_config(TASK, "debian_en_de,300k,full")) == plain(by_file)
    with pytest.raises(ConfigError, match=r"the config's task = .*did you mean 'debian_en_de'"):
        get_config(TASK, "debian_en_ge,300k,full")


@pytest.mark.parametrize(("method", "rate", "batch"), [("full", 1e-3, 128), ("prompt", 0.3, 16), ("lora", 1e-2, 16)])
@pytest.mark.parametrize("task", sorted(PAPER_TASKS))
def test_tasks_of_the_paper_have_its_settings(task, method, rate, batch):
    run_config = read_run_config(plain(get_config(ROOT / f"configs/finetune/{task}.py", f"1b,{method}")))
    assert (run_config.schedule_config.learning_rate, run_config.batch_size) == (rate, batch)
    assert run_config.optimizer.name == "adafactor"
    assert run_config.optimizer.parameter_scale
    long = task == "wmt19_en_zh" and method == "full"
    assert run_config.limits.max_steps == (300_000 if long else 200_000)
    limits = load_task(run_config.task)
    assert (limits.max_source_tokens, limits.max_target_tokens) == (512 if task == "mlsum" else 256, 256)


@pytest.mark.parametrize("path", PRETRAIN, ids=name)
def test_pretraining_configs_match_their_tokenizers(path):
    for front in PAIRS.get(path.stem, ("",)):
        run_config = read_run_config(plain(get_config(path, f"{front}2m")))
        preparation = build(TokenizerPreparation, plain(get_config(path, f"{front}tokenizer")), "config")
        assert preparation.corpus == run_config.corpus
        assert preparation.tokenizer.sentinels >= required_sentinels(run_config.sequence.length, run_config.objective)
        model = model_config(run_config.model, preparation.tokenizer.vocab_size)
        assert run_config.sequence.length <= model.max_length


@pytest.mark.parametrize("path", [TASK, *FINETUNE, *PRETRAIN, *STUDY], ids=name)
def test_every_config_has_a_default_argument(path):
    assert plain(get_config(path))


@pytest.mark.parametrize("path", STUDY, ids=name)
def test_study_configs_build_every_kind_of_run(path, tmp_path):
    study = read_study(plain(get_config(path)))
    for family_name, family in study.families.items():
        if family.public:
            continue
        run_config = read_run_config(pretraining_config(study, tmp_path, Base(family_name, family.sizes[0])))
        tokenizer = build(TokenizerConfig, family.tokenizer, "tokenizer")
        assert tokenizer.sentinels >= required_sentinels(run_config.sequence.length, run_config.objective)
    kinds = {(run.setting.task, run.setting.method, run.setting.pet_size): run for run in runs(study)}
    for run in kinds.values():
        family = study.families[run.setting.family]
        run_config = read_run_config(finetuning_config(study, tmp_path, run))
        task = load_task(run_config.task)
        run_config.sequence.format(task.max_source_tokens, task.max_target_tokens)
        size = run.setting.size
        model = family_model(family, size) if family.public else model_config({**family.model, "name": size}, 1000)
        prompt = run_config.tuning.prompt_length
        assert run_config.sequence.length + prompt <= model.max_length, run.directory


@pytest.mark.parametrize(
    ("config", "argument", "message"),
    [
        ("finetune/wmt14_en_de", "1b,lorra", "did you mean 'lora'"),
        ("finetune/wmt14_en_de", "1bb,lora", "did you mean '1b'"),
        ("finetune/wmt14_en_de", "1b", "SIZE,METHOD"),
        ("finetune/jsonl", "300k,lora,4", "SIZE,METHOD"),
        ("finetune/jsonl", "1.1b,lora", "write :lora and --config.base.run=DIR"),
        ("finetune/jsonl", "lorra", "did you mean 'lora'"),
        ("pretrain/grammar", "101k", "did you mean '100k'"),
        ("pretrain/bilingual", "en_fr,1b", "en_de or en_zh"),
        ("pretrain/bilingual", "1b", "en_de or en_zh"),
    ],
)
def test_a_wrong_argument_is_an_error(config, argument, message):
    with pytest.raises(ConfigError, match=message):
        get_config(ROOT / f"configs/{config}.py", argument)


MINIMAL = {
    "tokenizer": "t",
    "sequence": {"length": 8},
    "limits": {"max_steps": 1},
    "task": {"name": "grammar_translation"},
    "base": {"run": "r"},
}


@pytest.mark.parametrize("method", METHODS)
def test_an_unchanged_template_equals_the_defaults(method):
    config = run_config_template(method)
    with config.unlocked():
        config.update(MINIMAL)
    written, expected = read_run_config(plain(config)), read_run_config({**MINIMAL, "method": {"name": method}})
    assert written.tuning == expected.tuning
    assert plain(written) | {"method": None} == plain(expected) | {
        "method": None,
        "schedule": plain(written)["schedule"],
    }
    assert written.schedule_config == expected.schedule_config


def test_a_template_has_every_field():
    assert set(run_config_template("lora")) == set(RunConfig.__dataclass_fields__)


def test_overrides_of_any_depth_reach_the_experiment(read_command_line):
    config = "configs/finetune/wmt14_en_de.py:1b,lora"
    overrides = {
        "method.rank": "16",
        "method.alpha": "32",
        "method.targets": "('query','value')",
        "schedule.learning_rate": "3e-3",
        "batch.size": "64",
        "task.sources.data_dir": "/data",
        "task.template.input": "{source}=",
        "model.remat": "full",
        "finetune_examples": "1000",
        "base.run": "elsewhere",
        "tokenizer": "another",
        "logging.writers": "('tensorboard',)",
        "limits.patience": "5",
    }
    changes = (f"--config.{key}={value}" for key, value in overrides.items())
    run_config = read_run_config(read_command_line(f"--config={ROOT / config}", *changes))

    tuning = run_config.tuning
    assert (tuning.size, tuning.adapter.scale, tuning.adapter.targets) == (16, 2.0, ("query", "value"))
    assert run_config.schedule_config.learning_rate == 3e-3
    assert run_config.batch_size == 64
    task = load_task(run_config.task)
    assert task.train[0].source.data_dir == "/data"
    assert task.template.render({"source": "x", "target": "y", "source_language": "en", "target_language": "de"}) == (
        "x=",
        "y",
    )
    assert run_config.model == {"remat": "full"}
    assert (run_config.finetune_examples, run_config.limits.patience) == (1000, 5)
    assert (run_config.base.run, run_config.tokenizer) == ("elsewhere", "another")
    assert run_config.logging.writers == ("tensorboard",)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("schedul.name=linear", "--config.schedul: config has no such field; did you mean 'schedule'"),
        ("batch.sise=2", "--config.batch.sise: config.batch has no such field; did you mean 'size'"),
        ("corpus.train=x", "--config.corpus.train=x: expected a list"),
    ],
)
def test_a_wrong_override_suggests_the_nearest_field(override, message, read_command_line):
    with pytest.raises(ConfigError, match=message):
        read_command_line(f"--config={ROOT}/configs/finetune/mlsum.py:2b,full", f"--config.{override}")


def test_a_wrong_override_exits_with_one_line_and_2(tmp_path):
    wrong = ["--config=configs/finetune/mlsum.py", "--config.schedule.learning_rat=1", f"--workdir={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "finetune_scaling.train", *wrong]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 2
    assert result.stderr.strip() == (
        "error: --config.schedule.learning_rat: config.schedule has no such field; did you mean 'learning_rate'?"
    )
    assert not (tmp_path / "run").exists()
