"""configs/study/paper.py is the grid of arXiv 2402.17193: counted against the paper's numbers."""

import collections
import runpy
from pathlib import Path

import pytest

from finetune_scaling.models.config import count_parameters
from finetune_scaling.models.ladder import PAPER_VOCABULARY, model_config
from finetune_scaling.runs.run_config import read_run_config
from finetune_scaling.studies import configs, grid
from finetune_scaling.studies.grid import Setting, StudyConfig, read_study
from finetune_scaling.studies.listing import list_runs

PAPER = Path(__file__).parents[2] / "configs" / "study" / "paper.py"
K, M, B = 10**3, 10**6, 10**9
WORKDIR = Path("nowhere")

EN_DE, EN_ZH, MLSUM = "wmt14_en_de", "wmt19_en_zh", "mlsum"
PET_EXAMPLES = [8 * K, *range(10 * K, 100 * K + 1, 10 * K)]
FULL_EXAMPLES = {
    EN_DE: [100 * K, *range(500 * K, 4500 * K + 1, 500 * K)],
    EN_ZH: [n * M for n in (1, 2, 3, 4, 5, 10, 15, 20, 25)],
    MLSUM: list(range(100 * K, 900 * K + 1, 100 * K)),
}


@pytest.fixture(scope="module")
def paper() -> StudyConfig:
    return read_study(runpy.run_path(str(PAPER))["get_config"]())


@pytest.fixture(scope="module")
def settings(paper) -> list[Setting]:
    return grid.settings(paper)


def count(settings: list[Setting], *names: str) -> dict:
    def key(setting: Setting):
        return tuple(setting.factors[0] if name == "factor" else getattr(setting, name) for name in names)

    return dict(collections.Counter(key(setting) for setting in settings))


def test_1273_settings_with_three_subsets_each(paper, settings):
    assert len(settings) == 1273
    assert count(settings, "factor") == {("model",): 470, ("pretrain",): 407, ("pet",): 396}
    assert len(paper.seeds) == 3
    assert len(grid.runs(paper)) == 3819


def test_counts_per_task_factor_and_method(settings):
    # Sizes x D_f; further token counts x D_f at 1B; further PET sizes x D_f at 1B.
    expected = {}
    for task, tokens, full in ((EN_DE, 5, 10), (EN_ZH, 6, 9), (MLSUM, 5, 9)):
        for method, examples in (("full", full), ("prompt", 11), ("lora", 11)):
            expected[task, "model", method] = 5 * examples
            expected[task, "pretrain", method] = (tokens - 1) * examples
            if method != "full":
                expected[task, "pet", method] = (7 - 1) * examples
    assert count(settings, "task", "factor", "method") == expected


def test_factor_levels(settings):
    for task in (EN_DE, EN_ZH, MLSUM):
        of_task = [setting for setting in settings if setting.task == task]
        assert {s.size for s in of_task} == {"1b", "2b", "4b", "8b", "16b"}
        assert {s.size for s in of_task if s.factors[0] != "model"} == {"1b"}
        assert sorted({s.finetune_examples for s in of_task if s.method == "full"}) == FULL_EXAMPLES[task]
        for method in ("prompt", "lora"):
            assert sorted({s.finetune_examples for s in of_task if s.method == method}) == PET_EXAMPLES
        assert sorted({s.pet_size for s in of_task if s.method == "prompt"}) == [50, 100, 150, 200, 300, 400, 600]
        assert sorted({s.pet_size for s in of_task if s.method == "lora"}) == [4, 8, 16, 32, 48, 64, 128]
        defaults = {s.pet_size for s in of_task if s.factors[0] != "pet"}
        assert defaults == {None, 100, 4}


def test_pretraining_tokens_are_whole_steps_of_two_million(paper, settings):
    steps = {EN_DE: [40, 60, 80, 100, 135], EN_ZH: [40, 50, 60, 70, 80, 98], MLSUM: [40, 60, 80, 100, 135]}
    billions = {EN_DE: [84, 126, 168, 210, 283], EN_ZH: [84, 105, 126, 147, 168, 206]}
    for task, thousands in steps.items():
        tokens = sorted({s.tokens for s in settings if s.task == task})
        assert tokens == [n * K * 2**21 for n in thousands]
        assert [round(n / B) for n in tokens] == billions.get(task, billions[EN_DE])
        family = next(s.family for s in settings if s.task == task)
        found = [configs.base_step(paper, WORKDIR, configs.Base(family, "1b"), n) for n in tokens]
        assert found == [n * K for n in thousands]
    assert {s.family for s in settings if s.task == MLSUM} == {s.family for s in settings if s.task == EN_DE}


def test_held_out_settings(paper, settings):
    starred_tokens = {EN_DE: 100 * K * 2**21, EN_ZH: 80 * K * 2**21, MLSUM: 100 * K * 2**21}
    starred_pets = {"prompt": 600, "lora": 128, "full": ()}
    for setting in settings:
        examples = FULL_EXAMPLES[setting.task] if setting.method == "full" else PET_EXAMPLES
        expected = (
            setting.size == "16b"
            or setting.tokens == starred_tokens[setting.task]
            or setting.pet_size == starred_pets[setting.method]
            or setting.finetune_examples == max(examples)
        )
        assert grid.held_out(paper, setting) == expected, setting


def test_learning_rates_batches_and_limits(paper):
    rates, batches = {"full": 1e-3, "prompt": 0.3, "lora": 1e-2}, {"full": 128, "prompt": 16, "lora": 16}
    lengths = {EN_DE: (256, 256), EN_ZH: (256, 256), MLSUM: (512, 256)}
    for run in grid.runs(paper):
        if run.seed == paper.seeds[0]:
            task, method = run.setting.task, run.setting.method
            run_config = read_run_config(configs.finetuning_config(paper, WORKDIR, run))
            schedule = run_config.schedule_config
            assert (schedule.learning_rate, schedule.name) == (rates[method], "cosine")
            assert run_config.batch_size == batches[method]
            assert not run_config.batch.pack  # the paper's batch counts examples
            assert run_config.limits.max_steps == (300 * K if (task, method) == (EN_ZH, "full") else 200 * K)
            assert run_config.limits.max_epochs == 100
            assert (run_config.optimizer.name, run_config.optimizer.parameter_scale) == ("adafactor", True)
            assert (run_config.sequence.max_source_tokens, run_config.sequence.max_target_tokens) == lengths[task]
            assert run_config.finetune_examples == run.setting.finetune_examples


def test_bases(paper):
    for family, steps in (("en_de", 135 * K), ("en_zh", 98 * K)):
        for size in ("1b", "2b", "4b", "8b", "16b"):
            run_config = read_run_config(configs.pretraining_config(paper, WORKDIR, configs.Base(family, size)))
            assert run_config.batch_size * run_config.sequence.length == 2**21
            assert run_config.limits.max_tokens == steps * 2**21
            schedule = run_config.schedule_config
            assert (schedule.name, schedule.learning_rate, schedule.final_fraction) == ("cosine", 0.01, 0.1)
            assert run_config.objective.name == "ul2"
            assert run_config.optimizer.name == "adafactor"
            model = configs.family_model(paper.families[family], size)
            assert count_parameters(model) == count_parameters(model_config({"name": size}, PAPER_VOCABULARY))


def test_the_listing_needs_no_data_and_has_the_documented_keys(paper):
    rows = list_runs(paper, WORKDIR)
    assert len(rows) == 3819
    keys = {"task", "method", "factor", "x", "finetune_examples", "seed", "held_out", "state", "flops"}
    assert all(keys <= row.keys() for row in rows)
    assert {row["state"] for row in rows} == {"waiting"}
    models = {row["x"] for row in rows if row["factor"] == "model"}
    assert models == {1_218_480_128, 2_188_956_160, 3_601_935_360, 8_107_724_800, 15_440_491_520}
    assert sum(row["held_out"] for row in rows) % 3 == 0
    assert all(row["flops"] > 1e15 for row in rows)
