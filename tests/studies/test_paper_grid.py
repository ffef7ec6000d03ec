"""configs/study/paper.py is the paper's grid: its counts, held-out marks, learning rates, batches and step limits."""

import collections
import importlib.util
from pathlib import Path

import pytest

from finetune_scaling.models.config import count_parameters
from finetune_scaling.studies.configs import family_model, finetuning_config, pretraining_step
from finetune_scaling.studies.grid import Run, held_out, read_study, runs, settings
from finetune_scaling.training.experiment import read_experiment

CONFIG = Path(__file__).parents[2] / "configs" / "study" / "paper.py"


@pytest.fixture(scope="module")
def study():
    spec = importlib.util.spec_from_file_location("paper", CONFIG)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return read_study(module.get_config())


def test_it_has_1273_settings_and_3819_runs(study):
    assert len(settings(study)) == 1273
    assert len(runs(study)) == 3819
    assert len({run.directory for run in runs(study)}) == 3819


def test_settings_by_first_factor(study):
    assert collections.Counter(setting.factors[0] for setting in settings(study)) == {
        "model": 470,
        "pretrain": 407,
        "pet": 396,
    }


def test_settings_by_task_and_method(study):
    # Cells of study: sizes x examples, further token counts x examples, further PET sizes x examples.
    pet = {"wmt14_en_de": (5 + 4 + 6) * 11, "wmt19_en_zh": (5 + 5 + 6) * 11, "mlsum": (5 + 4 + 6) * 11}
    full = {"wmt14_en_de": (5 + 4) * 10, "wmt19_en_zh": (5 + 5) * 9, "mlsum": (5 + 4) * 9}
    counted = collections.Counter((setting.task, setting.method) for setting in settings(study))
    assert counted == {
        (task, method): cells[task]
        for method, cells in (("full", full), ("prompt", pet), ("lora", pet))
        for task in ("wmt14_en_de", "wmt19_en_zh", "mlsum")
    }


def test_held_out_marks(study):
    marked = {setting for setting in settings(study) if held_out(study, setting)}
    stars = {
        "wmt14_en_de": (100_000 * 2**21, 4_500_000),
        "wmt19_en_zh": (80_000 * 2**21, 25_000_000),
        "mlsum": (100_000 * 2**21, 900_000),
    }
    for setting in settings(study):
        tokens, full_examples = stars[setting.task]
        examples = full_examples if setting.method == "full" else 100_000
        largest_pet = {"full": None, "prompt": 600, "lora": 128}[setting.method]
        starred = (
            setting.size == "16b"
            or setting.tokens == tokens
            or setting.finetune_examples == examples
            or (largest_pet is not None and setting.pet_size == largest_pet)
        )
        assert (setting in marked) == starred


@pytest.mark.parametrize(("method", "rate", "batch"), [("full", 1e-3, 128), ("prompt", 0.3, 16), ("lora", 1e-2, 16)])
def test_learning_rates_batches_and_limits(study, method, rate, batch):
    for task in study.tasks:
        setting = next(s for s in settings(study) if (s.task, s.method) == (task, method))
        experiment = read_experiment(finetuning_config(study, Path("w"), Run(setting, seed=2)))
        assert (experiment.schedule_config.learning_rate, experiment.batch_size) == (rate, batch)
        assert experiment.schedule_config.name == "cosine"
        assert (experiment.optimizer.name, experiment.optimizer.parameter_scale) == ("adafactor", True)
        steps = 300_000 if (task, method) == ("wmt19_en_zh", "full") else 200_000
        assert (experiment.limits.max_steps, experiment.limits.max_epochs) == (steps, 100)
        assert experiment.seeds.data == 2


def test_models_and_token_counts(study):
    sizes = {size: count_parameters(family_model(study.families["en_de"], size)).total for size in ("1b", "16b")}
    assert sizes == {"1b": 1_218_480_128, "16b": 15_440_491_520}
    tokens = {name: family.tokens for name, family in study.families.items()}
    assert tokens["en_de"] == tuple(steps * 1000 * 2**21 for steps in (40, 60, 80, 100, 135))
    assert tokens["en_zh"] == tuple(steps * 1000 * 2**21 for steps in (40, 50, 60, 70, 80, 98))
    assert pretraining_step(study, Path("w"), "en_de", "1b", tokens["en_de"][-1]) == 135_000
