"""Workloads of run configs, with and without the base model and tokenizer that they name."""

import runpy
from pathlib import Path
from typing import Any

import jax
import pytest

from finetune_scaling import configuration
from finetune_scaling.chips import find_chip
from finetune_scaling.configuration import merge
from finetune_scaling.errors import ConfigError
from finetune_scaling.models.config import count_parameters
from finetune_scaling.models.ladder import PAPER_VOCABULARY, model_config
from finetune_scaling.planning.compiled import TRAINING, trace
from finetune_scaling.planning.layout import Layout, resident_bytes
from finetune_scaling.planning.totals import run_steps, run_totals
from finetune_scaling.planning.workload import planned_model, read_workload
from finetune_scaling.runs.run_config import RunConfig, read_run_config
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.flops import training_flops

CONFIGS = Path(__file__).parents[2] / "configs"


def run_config(file: str, argument: str, **changes: Any) -> RunConfig:
    config = configuration.plain(runpy.run_path(str(CONFIGS / file))["get_config"](argument))
    return read_run_config(merge(config, changes))


@pytest.mark.parametrize("size", ["1b", "16b"])
def test_a_missing_base_gives_the_size_by_its_name(size: str) -> None:
    model = planned_model(run_config("finetune/wmt14_en_de.py", f"{size},lora"))
    assert model == model_config({"name": size, "remat": "full"}, PAPER_VOCABULARY)


def test_the_size_of_pretraining_may_be_changed() -> None:
    given = run_config("pretrain/bilingual.py", "en_de,2b")
    assert planned_model(given) == model_config({"name": "2b", "remat": "full"}, PAPER_VOCABULARY)
    assert planned_model(given, size="8b") == model_config({"name": "8b", "remat": "full"}, PAPER_VOCABULARY)
    assert planned_model(given, vocabulary=64_000).vocab_size == 64_000


def test_model_fields_are_kept() -> None:
    given = run_config("finetune/wmt14_en_de.py", "4b,full", model={"remat": "dots", "max_length": 1024})
    model = planned_model(given)
    assert (model.remat, model.max_length, model.layers) == ("dots", 1024, 24)


def test_unknown_sizes_and_vocabularies_are_errors_with_the_flag() -> None:
    with pytest.raises(ConfigError, match="--model, one of: 30k"):
        planned_model(run_config("finetune/wmt14_en_de.py", "1b,lora", base={"run": "runs/mine"}))
    with pytest.raises(ConfigError, match="--vocabulary"):
        planned_model(run_config("pretrain/debian.py", "2m"))


def test_the_model_of_a_trained_base_is_read_from_its_checkpoint(tiny_runs) -> None:
    given = read_run_config(tiny_runs.config("lora"))
    model = planned_model(given)
    assert (model.layers, model.vocab_size, model.compute_dtype) == (1, 256, "float32")
    step = read_workload(given, model)
    assert (step.batch, step.length, step.evaluation_batch) == (8, 32, 20)
    assert step.decoding is None  # the config does not decode


def test_step_and_decoding_of_a_shipped_config() -> None:
    given = run_config("finetune/wmt14_en_de.py", "1b,prompt")
    step = read_workload(given, planned_model(given))
    assert (step.batch, step.length, step.positions) == (16, 544, 644)
    assert step.decoding is not None
    assert (step.decoding.input_tokens, step.decoding.new_tokens) == (288, 256)


def test_rows_longer_than_the_context_are_errors() -> None:
    given = run_config("finetune/wmt14_en_de.py", "1b,prompt", model={"max_length": 600})
    with pytest.raises(ConfigError, match="644 tokens"):
        read_workload(given, planned_model(given))


def test_steps_of_a_run() -> None:
    endless = run_config("finetune/wmt14_en_de.py", "1b,lora")  # 200,000 steps or 100 epochs
    assert run_steps(endless) == (200_000, "max_steps")
    assert run_steps(run_config("finetune/wmt14_en_de.py", "1b,lora", finetune_examples=8000)) == (50_000, "max_epochs")
    with pytest.raises(ConfigError, match="finetune_examples"):
        run_steps(run_config("finetune/wmt14_en_de.py", "1b,lora", limits={"max_steps": None}))


def test_totals_of_a_run() -> None:
    given = run_config("finetune/wmt14_en_de.py", "1b,full")
    step, chip = read_workload(given, planned_model(given)), find_chip("v5e")
    flops = training_flops(step.model, step.tuning, 200_000, 128, 544)
    slow = run_totals(given, step, chip, bound_chip_seconds=360.0, utilisation=0.5)
    assert (slow.steps, slow.chip_hours_bound, slow.chip_hours) == (200_000, 20_000.0, 20_000.0)
    fast = run_totals(given, step, chip, bound_chip_seconds=0.36, utilisation=0.5)
    assert fast.chip_hours == pytest.approx(flops / (197e12 * 0.5) / 3600)
    assert fast.flops == pytest.approx(flops)


TRAINED = {  # parameters: inner dimensions q and k of queries and keys, model dimension d, feed-forward dimension f
    "dora": lambda n, q, k, d, f: n * (2 * (2 * (d + q) + 2 * (d + k) + 3 * (d + f)) + q + 2 * k + 2 * f + 2 * d),
    "ia3": lambda n, q, k, d, f: n * (2 * k + f),
    "prefix": lambda n, q, k, d, f: 3 * d + 4 * d + 4 + (4 + 1) * 2 * n * k,
    "bottleneck": lambda n, q, k, d, f: n * 2 * (2 * 5 * d + 5 + d),
    "bitfit": lambda n, q, k, d, f: n * (q + 2 * k + 2 * f + 2 * d),
    "gain": lambda n, q, k, d, f: n * (2 * k + f) + (n + 1) * d,  # of docs/methods.md; norms are the base's
}
OPTIONS = {"dora": {"rank": 2}, "prefix": {"length": 3, "mlp_width": 4}, "bottleneck": {"width": 5}}


@pytest.mark.usefixtures("example_method")
@pytest.mark.parametrize("method", TRAINED)
def test_estimated_bytes_of_each_method_are_its_closed_form(workload, method):
    step = workload("30k", method, options=OPTIONS.get(method, {}))
    m = step.model
    sizes = (m.layers, m.heads * m.head_dim, m.kv_heads * m.head_dim, m.model_dim, m.ffn_dim)
    found = resident_bytes(step, Layout(1, 1, 1))
    assert found.trainable == 4 * TRAINED[method](*sizes)
    norms = (m.layers + 1) * m.model_dim
    frozen_norms = 0 if method == "gain" else norms  # in float32
    assert found.frozen == 2 * (count_parameters(m).total - norms) + 4 * frozen_norms


@pytest.mark.parametrize("method", ["dora", "prefix"])
def test_the_compiled_step_has_the_estimated_arguments(workload, method):
    step = workload("30k", method, batch=2, length=8, options=OPTIONS[method])
    compiled = trace(step, Layout(1, 1, 1), make_mesh(ShardingConfig(), jax.devices()[:1]), TRAINING).lowered.compile()
    expected = resident_bytes(step, Layout(1, 1, 1)).total
    # Placeholders in the optimizer state, which are never read, are no arguments.
    assert compiled.memory_analysis().argument_size_in_bytes == pytest.approx(expected, rel=0.005)
