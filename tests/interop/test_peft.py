"""Adapters exchanged with PEFT: both sides compute the same logits, after training on either side."""

import dataclasses
import functools
import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, get_peft_model
from safetensors.numpy import load_file, save_file
from transformers import AutoModelForCausalLM

from finetune_scaling import configuration
from finetune_scaling.errors import CheckpointError, ConfigError, WorkdirError
from finetune_scaling.evaluation.jobs import EvaluationOptions, plan_evaluations, run_evaluations
from finetune_scaling.experiments.run import run as train_run
from finetune_scaling.interop.families.matching_family import match_family
from finetune_scaling.interop.families.registry import FAMILIES
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter
from finetune_scaling.interop.peft.low_rank import split_ranks, to_peft
from finetune_scaling.interop.peft.modules import linear_modules
from finetune_scaling.interop.run_export import RunExport, export_run
from finetune_scaling.runs.checkpoints import checkpoint_steps
from finetune_scaling.runs.config_template import run_config_template
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.run_config import read_run_config

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))
CONFIG_OF_RUN = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "run.py"))["get_config"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PEFT = runpy.run_path(str(Path(__file__).parents[1] / "peft_adapters.py"))
KINDS = PEFT["KINDS"]


@pytest.fixture(scope="module")
def peft_trained(public_base, tokens, tmp_path_factory):
    """peft_trained(kind) -> the directory of an adapter that PEFT trained for a few steps, and PEFT's model of it."""

    @functools.cache
    def train(kind):
        model = PEFT["new_adapter"](kind, public_base)
        PEFT["train"](model, [tokens] * 3, learning_rate=0.05)
        folder = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(folder)
        return folder, model

    return train


def loaded(public_base, adapter):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(public_base), adapter)


def check_different(left, right):
    assert np.abs(left - right).max() > 0.05  # otherwise agreement would prove little


@pytest.mark.parametrize("kind", KINDS)
def test_imported_adapter_has_the_logits_of_peft_and_is_exported_again(
    kind, peft_trained, public_base, base, run_logits, reference_logits, tmp_path, record_property
):
    folder, model = peft_trained(kind)
    run = tmp_path / "run"
    figures = import_adapter(AdapterImport(str(folder), str(base), str(run)))
    expected = reference_logits(model)
    check_different(expected, run_logits(base))
    imported = run_logits(run)
    record_property("logits", float(np.abs(imported - expected).max()))  # read by benchmarks/peft_parity.py
    np.testing.assert_allclose(imported, expected, atol=1e-4)
    assert figures["method"]["name"] == KINDS[kind].method
    continuing = {**run_config_template(KINDS[kind].method).method, **figures["method"]}
    assert not configuration.differing_fields(CONFIG_OF_RUN(str(run)).method, continuing)
    export_run(RunExport(str(run), adapter=str(tmp_path / "out")))
    np.testing.assert_allclose(reference_logits(loaded(public_base, tmp_path / "out")), expected, atol=1e-4)
    if kind in ("lora", "lora, rank-stabilized", "dora", "ia3", "prompt", "prefix"):
        before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
        assert before.keys() == after.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name], err_msg=name)


@pytest.mark.slow
def test_imported_adapter_is_trained_and_exported(
    peft_trained, public_base, base, runs, run_logits, reference_logits, tmp_path
):
    folder, _ = peft_trained("lora")
    run, config = tmp_path / "run", runs.config("lora", base, method={"rank": 9})
    import_adapter(AdapterImport(str(folder), str(base), str(run), config=config))
    before = run_logits(run)
    config = configuration.plain(CONFIG_OF_RUN(str(run)))
    with pytest.raises(WorkdirError, match=r"method\.alpha"):
        train_run({**config, "method": {**config["method"], "alpha": 1.0}}, run)
    record = train_run({**config, "limits": {"max_steps": 8}, "schedule": {"learning_rate": 0.1}}, run)
    assert record["steps"] == 8
    assert next(checkpoint_steps(run)) == 8
    after = run_logits(run)
    check_different(after, before)
    export_run(RunExport(str(run), adapter=str(tmp_path / "out")))
    np.testing.assert_allclose(reference_logits(loaded(public_base, tmp_path / "out")), after, atol=1e-4)
    export_run(RunExport(str(run), model=str(tmp_path / "merged")))
    merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(reference_logits(merged), after, atol=1e-4)


def test_adapter_without_a_task_is_evaluated_on_that_of_a_config(
    peft_trained, base, runs, run_logits, reference_logits, tmp_path
):
    folder, model = peft_trained("lora")
    run = tmp_path / "run"
    import_adapter(AdapterImport(str(folder), str(base), str(run)))
    np.testing.assert_allclose(run_logits(run), reference_logits(model), atol=1e-4)
    config = runs.config("lora", base)
    how = EvaluationOptions(finetuning=read_run_config({**config, "base": {"run": "nowhere"}}))
    choose = lambda *_: {"mine": TaskEvaluator(examples=4, generate=0)}  # noqa: E731
    assert not run_evaluations(plan_evaluations([str(run)], choose, how), how)
    record = json.loads((run / "evaluation" / "mine.json").read_text())
    assert record["loss"] != record["untuned"]["loss"]
    with pytest.raises(ConfigError, match="task"):
        plan_evaluations([str(run)], choose, EvaluationOptions())
    with pytest.raises(ConfigError, match="without a task"):
        train_run(configuration.plain(CONFIG_OF_RUN(str(run))), run)


def test_lora_of_a_fused_module(runs, run_logits, reference_logits, tmp_path):
    """GPT-NeoX has one module, and PEFT one adapter, for our three dense layers."""
    public = MADE["make"]("gpt_neox")
    public.save_pretrained(tmp_path / "public")
    base = runs.write(tmp_path / "base", *load_model(tmp_path / "public"))
    settings = {"r": 3, "lora_alpha": 4, "target_modules": ["query_key_value", "dense_h_to_4h"]}
    torch.manual_seed(0)
    model = get_peft_model(public, LoraConfig(**settings, init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    run = tmp_path / "run"
    figures = import_adapter(
        AdapterImport(str(tmp_path / "adapter"), str(base), str(run), config=runs.config("lora", base))
    )
    assert figures["method"]["targets"] == ["query", "key", "value", "up"]
    check_different(reference_logits(model), run_logits(base))
    np.testing.assert_allclose(run_logits(run), reference_logits(model), atol=1e-4)
    export_run(RunExport(str(run), adapter=str(tmp_path / "out")))
    fields = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (fields["r"], fields["rank_pattern"]) == (3, {"query_key_value": 9})
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "public"), tmp_path / "out")
    np.testing.assert_allclose(reference_logits(again), reference_logits(model), atol=1e-4)


def test_soft_prompt_with_scaled_embeddings(runs, run_logits, reference_logits, tmp_path):
    """Gemma scales the embeddings of tokens but not those of a prompt, and its windows count the prompt."""
    public = MADE["make"]("gemma2")
    public.save_pretrained(tmp_path / "public")
    base = runs.write(tmp_path / "base", *load_model(tmp_path / "public"))
    torch.manual_seed(0)
    model = get_peft_model(public, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    import_adapter(AdapterImport(str(tmp_path / "adapter"), str(base), str(tmp_path / "run")))
    check_different(reference_logits(model), run_logits(base))
    np.testing.assert_allclose(run_logits(tmp_path / "run"), reference_logits(model), atol=1e-4)


@pytest.mark.parametrize("targets", [("query", "key", "value"), ("value", "query"), ("key",)])
def test_adapters_of_fused_kernels_are_stacked_and_split_again(targets, tmp_path):
    MADE["make"]("gpt_neox").save_pretrained(tmp_path)
    config, _ = load_model(tmp_path)
    match = match_family(config, [FAMILIES["gpt_neox"]], "model")
    module = next(m for m in linear_modules(match) if m.last_name == "query_key_value")
    rng, rank, dim = np.random.default_rng(0), 2, config.model_dim
    factors = {}
    for name in targets:
        for leaf, shape in (("lora_a", (dim, rank)), ("lora_b", (rank, dim))):
            factors[f"layers/attention/{name}/{leaf}"] = rng.normal(size=(config.layers, *shape)).astype(np.float32)
    tensors = to_peft(module, factors)
    a, b = (np.stack([tensors[key].T for key in module.keys(suffix)]) for suffix in ("lora_A.weight", "lora_B.weight"))
    for folder, product in zip(module.folders, module.split(a @ b), strict=True):
        if f"{folder}/lora_a" in factors:
            expected = factors[f"{folder}/lora_a"] @ factors[f"{folder}/lora_b"]
            np.testing.assert_allclose(product, expected, atol=1e-5)
        else:
            np.testing.assert_array_equal(product, 0)
    for folder, (own_a, own_b) in zip(module.folders, split_ranks(a, module.split(b)), strict=True):
        if folder.rpartition("/")[2] not in targets:
            assert own_a.shape[-1] == 0
            continue
        np.testing.assert_array_equal(own_a, factors[f"{folder}/lora_a"])
        np.testing.assert_array_equal(own_b, factors[f"{folder}/lora_b"])


@pytest.fixture
def copied(peft_trained, tmp_path):
    """copied(kind, tensors=function, **fields) -> a copy of an adapter with changed tensors and fields."""

    def copy(kind="lora", tensors=None, **fields):
        folder, _ = peft_trained(kind)
        target = tmp_path / "changed"
        target.mkdir()
        (target / CONFIG).write_text(json.dumps({**json.loads((folder / CONFIG).read_text()), **fields}))
        content = load_file(folder / WEIGHTS)
        save_file(content if tensors is None else tensors(content), target / WEIGHTS)
        return target

    return copy


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"peft_type": "VERA"}, "peft_type = 'VERA' is not supported"),
        ({"bias": "lora_only"}, "bias = 'lora_only' is not supported"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is not supported"),
        ({"layers_to_transform": [0]}, r"layers_to_transform = \[0\] is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' is not supported"),
        ({"something_new": 3}, "something_new = 3 is not supported"),
        ({"r": 0}, "r = 0 must be at least 1"),
        ({"lora_alpha": "high"}, "lora_alpha = 'high' is not a number"),
        ({"rank_pattern": [3]}, r"rank_pattern = \[3\] is not a JSON object"),
        ({"alpha_pattern": {"(": 3}}, r"alpha_pattern: '\(' is not a regular expression"),
        ({"use_rslora": "no"}, "use_rslora = 'no' is neither true nor false"),
    ],
)
def test_unsupported_field_is_named(copied, base, fields, message, tmp_path):
    check_refused(copied(**fields), base, tmp_path, ConfigError, f"{CONFIG}: {message}")


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, FIRST), "0.self_attn.q_proj.lora_A.weight is missing"),
        (
            lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[FIRST]},
            "lm_head.lora_A.weight extends no module",
        ),
        (lambda t: {**t, FIRST: t[FIRST][:, 1:]}, r"lora_A.weight has shape \[3, 23\], .*\[3, 24\]"),
        (lambda t: {**t, FIRST: t[FIRST].astype(np.int8)}, "dtype int8"),
        (lambda t: {**t, FIRST: np.full_like(t[FIRST], np.nan)}, "lora_A.weight has values that are not finite"),
        (lambda t: {}, "has no tensors"),
    ],
)
def test_mismatched_tensor_is_named(copied, base, change, message, tmp_path):
    check_refused(copied(tensors=change), base, tmp_path, CheckpointError, message)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def test_mismatched_prompt_is_named(copied, base, tmp_path):
    narrow = copied("prompt", lambda t: {"prompt_embeddings": t["prompt_embeddings"][:, 1:]})
    check_refused(narrow, base, tmp_path, CheckpointError, r"prompt_embeddings has shape \[4, 23\], .*\[4, 24\]")


def check_refused(adapter, base, tmp_path, error, message):
    with pytest.raises(error, match=message):
        import_adapter(AdapterImport(str(adapter), str(base), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_missing_or_damaged_files_are_named(copied, base, tmp_path):
    adapter = copied()
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:50])
    check_refused(adapter, base, tmp_path, CheckpointError, "not a valid safetensors file")
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    check_refused(adapter, base, tmp_path, CheckpointError, "pickled weights")
    (adapter / CONFIG).unlink()
    check_refused(adapter, base, tmp_path, CheckpointError, f"{CONFIG}: no such file")


def test_exported_adapter_records_its_base(peft_trained, base, runs, sequential, random_params, tmp_path):
    folder, _ = peft_trained("lora")
    config = runs.config("lora", base, optimizer={"clip_norm": None}, evaluation={"generate_examples": None})
    import_adapter(AdapterImport(str(folder), str(base), str(tmp_path / "run"), config=config))
    found = CONFIG_OF_RUN(str(tmp_path / "run"))
    assert (found.optimizer.clip_norm, found.evaluation.generate_examples) == (None, None)
    export_run(RunExport(str(tmp_path / "run"), adapter=str(tmp_path / "out")))
    params = random_params(sequential)
    other = runs.write(tmp_path / "other", sequential, {**params, "embedding": params["embedding"] + 1})
    check_refused(tmp_path / "out", other, tmp_path / "new", CheckpointError, "base_digest = ")
    check_refused(folder, tmp_path / "run", tmp_path / "new", CheckpointError, "holds an adapter")
    with pytest.raises(ConfigError, match=r"method\.name = 'prompt', .*'lora'"):
        import_adapter(AdapterImport(str(folder), str(base), str(tmp_path / "new"), config=runs.config("prompt", base)))


@pytest.mark.parametrize("content", ["[]", '{"base_digest": 5}'])
def test_record_without_a_base_digest(copied, base, content, tmp_path):
    adapter = copied()
    (adapter / "finetune_scaling.json").write_text(content)
    check_refused(adapter, base, tmp_path, CheckpointError, "finetune_scaling.json: base_digest")


def test_model_and_adapter_need_separate_directories(copied, base, public_base, tmp_path):
    import_adapter(AdapterImport(str(copied()), str(base), str(tmp_path / "run")))
    for model in (tmp_path / "out", tmp_path / "out" / "model"):
        with pytest.raises(ConfigError, match="--to-peft"):
            export_run(RunExport(str(tmp_path / "run"), model=str(model), adapter=str(tmp_path / "out")))
        assert not (tmp_path / "out").exists()
    with pytest.raises(WorkdirError, match="--from-hf="):
        export_run(RunExport(str(public_base), model=str(tmp_path / "out")))


def test_adapter_names_the_public_model_of_its_base(copied, runs, sequential, random_params, tmp_path):
    public = {"name": "owner/model-70m", "family": "qwen3", "revision": "main", "commit": "abc123"}
    params = random_params(dataclasses.replace(sequential, qk_norm="head"))
    config = dataclasses.replace(sequential, qk_norm="head", scale_logits=False)
    converted = runs.write(tmp_path / "base", config, params, tokenizer="", public=public)
    adapter = copied(base_model_name_or_path="owner/model-160m")
    message = "base_model_name_or_path = 'owner/model-160m', but .* was imported from 'owner/model-70m'"
    check_refused(adapter, converted, tmp_path, CheckpointError, message)
    fields = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**fields, "base_model_name_or_path": "Owner/Model-70m"}))
    import_adapter(AdapterImport(str(adapter), str(converted), str(tmp_path / "run")))
    export_run(RunExport(str(tmp_path / "run"), adapter=str(tmp_path / "out")))
    fields = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (fields["base_model_name_or_path"], fields["revision"]) == ("owner/model-70m", "abc123")


def test_model_is_exported_as_the_family_that_it_came_from(runs, sequential, random_params, tmp_path):
    """Llama and Mistral both compute this model."""
    config = dataclasses.replace(sequential, scale_logits=False)
    for family in ("llama", "mistral"):
        public = {"name": "here", "family": family}
        run = runs.write(tmp_path / family, config, random_params(config), tokenizer="", public=public)
        figures = export_run(RunExport(str(run), model=str(tmp_path / f"{family} out")))
        assert figures["model"]["family"] == family
