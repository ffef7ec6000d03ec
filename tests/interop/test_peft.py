"""Adapters out and in: PEFT's own models of them have our logits, after training steps on either side."""

import dataclasses
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
from finetune_scaling.experiments.run import run as train
from finetune_scaling.interop.families.family import to_theirs
from finetune_scaling.interop.hugging_face import FAMILIES, load_model
from finetune_scaling.interop.outgoing import Outgoing, write_out
from finetune_scaling.interop.peft.incoming import Incoming, bring_in
from finetune_scaling.interop.peft.lora import modules, split, to_peft
from finetune_scaling.runs.checkpoints import checkpoint_steps
from finetune_scaling.runs.evaluators import TaskEvaluator
from finetune_scaling.runs.run_config import read_run_config

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))
CONFIG_OF_RUN = runpy.run_path(str(Path(__file__).parents[2] / "configs" / "run.py"))["get_config"]
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
LORA = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj", "down_proj"]}
KINDS = {
    "plain": LoraConfig(**LORA, task_type="CAUSAL_LM"),
    "rank-stabilised": LoraConfig(**LORA, use_rslora=True, task_type="CAUSAL_LM"),
    "ranks and alphas by pattern": LoraConfig(
        r=3, lora_alpha=5, target_modules="all-linear", task_type="CAUSAL_LM",
        rank_pattern={"q_proj": 2, "layers.1.mlp.up_proj": 5}, alpha_pattern={"o_proj": 7},
    ),
    "prompt": PromptTuningConfig(num_virtual_tokens=4, task_type="CAUSAL_LM"),
}  # fmt: skip
OTHER = {"plain": {"alpha": 1.0}, "prompt": {"length": 2}}  # than what was trained


@pytest.fixture(scope="module")
def public_base(base, tmp_path_factory):
    """The base as transformers loads it."""
    folder = tmp_path_factory.mktemp("public") / "base"
    write_out(Outgoing(str(base), model=str(folder)))
    return folder


@pytest.fixture(scope="module")
def trained_there(public_base, tokens, tmp_path_factory):
    """trained_there(kind): the directory of an adapter that torch took some steps with, and PEFT's model of it."""
    made = {}

    def train_there(kind):
        if kind not in made:
            torch.manual_seed(0)
            model = get_peft_model(AutoModelForCausalLM.from_pretrained(public_base), KINDS[kind])
            trained = [weight for weight in model.parameters() if weight.requires_grad]
            optimizer = torch.optim.Adam(trained, lr=0.05)
            for _ in range(3):
                optimizer.zero_grad()
                model(input_ids=torch.from_numpy(tokens), labels=torch.from_numpy(tokens)).loss.backward()
                optimizer.step()
            folder = tmp_path_factory.mktemp("adapter")
            model.save_pretrained(folder)
            made[kind] = folder, model
        return made[kind]

    return train_there


def loaded(public_base, adapter):
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(public_base), adapter)


def check_different(left, right):
    assert np.abs(left - right).max() > 0.05  # else that two are equal would say little


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_trained_there_has_the_same_logits_here_and_goes_back(
    kind, trained_there, public_base, base, runs, ours, theirs, tmp_path
):
    folder, model = trained_there(kind)
    run = tmp_path / "run"
    figures = bring_in(Incoming(str(folder), str(base), str(run), config=runs.config(named(kind), base)))
    expected = theirs(model)
    check_different(expected, ours(base))
    np.testing.assert_allclose(ours(run), expected, atol=1e-4)
    assert figures["method"]["name"] == named(kind)
    write_out(Outgoing(str(run), adapter=str(tmp_path / "out")))
    np.testing.assert_allclose(theirs(loaded(public_base, tmp_path / "out")), expected, atol=1e-4)
    if kind == "plain" or kind == "prompt":
        before, after = load_file(folder / WEIGHTS), load_file(tmp_path / "out" / WEIGHTS)
        assert before.keys() == after.keys()
        for name, value in before.items():
            np.testing.assert_array_equal(value, after[name], err_msg=name)


def named(kind):
    return "prompt" if kind == "prompt" else "lora"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["plain", "prompt"])
def test_training_goes_on_here_and_peft_loads_what_comes_of_it(
    kind, trained_there, public_base, base, runs, ours, theirs, tmp_path
):
    folder, _ = trained_there(kind)
    run = tmp_path / "run"
    bring_in(Incoming(str(folder), str(base), str(run), config=runs.config(named(kind), base, method={"rank": 9})))
    before = ours(run)
    config = configuration.plain(CONFIG_OF_RUN(str(run)))
    with pytest.raises(WorkdirError, match=f"another config .they differ in method.{next(iter(OTHER[kind]))}"):
        train({**config, "method": {**config["method"], **OTHER[kind]}}, run)
    record = train({**config, "limits": {"max_steps": 8}, "schedule": {"learning_rate": 0.1}}, run)
    assert record["steps"] == 8
    assert next(checkpoint_steps(run)) == 8
    after = ours(run)
    check_different(after, before)
    write_out(Outgoing(str(run), adapter=str(tmp_path / "out")))
    np.testing.assert_allclose(theirs(loaded(public_base, tmp_path / "out")), after, atol=1e-4)
    if kind == "plain":
        write_out(Outgoing(str(run), model=str(tmp_path / "merged")))
        merged = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
        np.testing.assert_allclose(theirs(merged), after, atol=1e-4)


def test_an_adapter_without_a_task_is_asked_that_of_a_config(trained_there, base, runs, ours, theirs, tmp_path):
    folder, model = trained_there("plain")
    run = tmp_path / "run"
    bring_in(Incoming(str(folder), str(base), str(run)))
    np.testing.assert_allclose(ours(run), theirs(model), atol=1e-4)
    config = runs.config("lora", base)
    how = EvaluationOptions(finetuning=read_run_config({**config, "base": {"run": "nowhere"}}))
    choose = lambda *_: {"mine": TaskEvaluator(examples=4, generate=0)}  # noqa: E731
    assert not run_evaluations(plan_evaluations([str(run)], choose, how), how)
    record = json.loads((run / "evaluation" / "mine.json").read_text())
    assert record["loss"] != record["untuned"]["loss"]
    with pytest.raises(ConfigError, match="an imported adapter has no task"):
        plan_evaluations([str(run)], choose, EvaluationOptions())
    with pytest.raises(ConfigError, match="imported without a task"):
        train(configuration.plain(CONFIG_OF_RUN(str(run))), run)


def test_queries_keys_and_values_in_one_tensor(runs, ours, theirs, tmp_path):
    """GPT-NeoX has one module, and PEFT one adapter, for three dense layers of ours."""
    public = MADE["make"]("gpt_neox")
    public.save_pretrained(tmp_path / "public")
    base = runs.write(tmp_path / "base", *load_model(tmp_path / "public"))
    settings = {"r": 3, "lora_alpha": 4, "target_modules": ["query_key_value", "dense_h_to_4h"]}
    torch.manual_seed(0)
    model = get_peft_model(public, LoraConfig(**settings, init_lora_weights=False, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    run = tmp_path / "run"
    figures = bring_in(Incoming(str(tmp_path / "adapter"), str(base), str(run), config=runs.config("lora", base)))
    assert figures["method"]["targets"] == ["query", "key", "value", "up"]
    check_different(theirs(model), ours(base))
    np.testing.assert_allclose(ours(run), theirs(model), atol=1e-4)
    write_out(Outgoing(str(run), adapter=str(tmp_path / "out")))
    fields = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (fields["r"], fields["rank_pattern"]) == (3, {"query_key_value": 9})
    again = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "public"), tmp_path / "out")
    np.testing.assert_allclose(theirs(again), theirs(model), atol=1e-4)


def test_a_soft_prompt_before_embeddings_that_are_scaled(runs, ours, theirs, tmp_path):
    """Gemma multiplies its tokens' embeddings, and a prompt's not; windows count the prompt."""
    public = MADE["make"]("gemma2")
    public.save_pretrained(tmp_path / "public")
    base = runs.write(tmp_path / "base", *load_model(tmp_path / "public"))
    torch.manual_seed(0)
    model = get_peft_model(public, PromptTuningConfig(num_virtual_tokens=3, task_type="CAUSAL_LM"))
    model.save_pretrained(tmp_path / "adapter")
    bring_in(Incoming(str(tmp_path / "adapter"), str(base), str(tmp_path / "run")))
    check_different(theirs(model), ours(base))
    np.testing.assert_allclose(ours(tmp_path / "run"), theirs(model), atol=1e-4)


@pytest.mark.parametrize("targets", [("query", "key", "value"), ("value", "query"), ("key",)])
def test_adapters_of_one_tensor_are_one_and_come_apart_as_they_were(targets, tmp_path):
    MADE["make"]("gpt_neox").save_pretrained(tmp_path)
    config, _ = load_model(tmp_path)
    module = next(m for m in modules(FAMILIES["gpt_neox"], config) if m.last_name == "query_key_value")
    rng, rank, dim = np.random.default_rng(0), 2, config.model_dim
    draw = lambda *shape: rng.normal(size=(config.layers, *shape)).astype(np.float32)  # noqa: E731
    factors = {}
    for name in targets:
        folder = f"layers/attention/{name}"
        factors |= {f"{folder}/lora_a": draw(dim, rank), f"{folder}/lora_b": draw(rank, dim)}
    tensors = to_peft(module, factors)
    zero = np.zeros((dim, dim), np.float32)
    for layer in range(config.layers):
        a, b = (tensors[module.key(layer, factor)] for factor in (".lora_A.weight", ".lora_B.weight"))
        each = [factors_product(factors, name, layer, zero) for name in ("query", "key", "value")]
        np.testing.assert_allclose(b @ a, to_theirs(module.parts, each), atol=1e-5)
    whole_a = np.stack([tensors[module.key(layer, ".lora_A.weight")].T for layer in range(config.layers)])
    b_of = lambda part: np.stack(  # noqa: E731
        [part.to_ours(tensors[module.key(layer, ".lora_B.weight")]) for layer in range(config.layers)]
    )
    for part, (a, b) in zip(module.parts, split(whole_a, [b_of(part) for part in module.parts]), strict=True):
        name = part.ours.split("/")[2]
        if name not in targets:
            assert a.shape[-1] == 0
            continue
        np.testing.assert_array_equal(a, factors[f"layers/attention/{name}/lora_a"])
        np.testing.assert_array_equal(b, factors[f"layers/attention/{name}/lora_b"])


def factors_product(factors, name, layer, zero):
    folder = f"layers/attention/{name}"
    return (
        factors[f"{folder}/lora_a"][layer] @ factors[f"{folder}/lora_b"][layer]
        if f"{folder}/lora_a" in factors
        else zero
    )


@pytest.fixture
def copied(trained_there, tmp_path):
    """copied(kind, tensors=function of them, fields...) -> a copy of an adapter with something else in it."""

    def copy(kind="plain", tensors=None, **fields):
        folder, _ = trained_there(kind)
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
        ({"peft_type": "IA3"}, "peft_type = 'IA3' is not read; adapters of LORA and PROMPT_TUNING are"),
        ({"use_dora": True}, "use_dora = True is something that our adapters do not compute"),
        ({"bias": "lora_only"}, "bias = 'lora_only' trains biases, too"),
        ({"modules_to_save": ["lm_head"]}, r"modules_to_save = \['lm_head'\] is something"),
        ({"layers_to_transform": [0]}, r"layers_to_transform = \[0\] is something"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights = 'pissa' changes the base"),
        ({"something_new": 3}, "something_new = 3 is something"),
        ({"r": 0}, "r = 0 must be a whole number of at least 1"),
        ({"lora_alpha": "high"}, "lora_alpha = 'high' must be a number above 0"),
        ({"rank_pattern": [3]}, r"rank_pattern = \[3\] is not a group of fields"),
        ({"alpha_pattern": {"(": 3}}, r"alpha_pattern: '\(' is not a regular expression"),
        ({"use_rslora": "no"}, "use_rslora = 'no' is neither true nor false"),
    ],
)
def test_what_our_adapters_do_not_compute_is_named(copied, base, fields, message, tmp_path):
    check_refused(copied(**fields), base, tmp_path, ConfigError, f"{CONFIG}: {message}")


FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: without(t, FIRST), "0.self_attn.q_proj.lora_A.weight is missing; an adapter has to extend"),
        (lambda t: {**t, "base_model.model.lm_head.lora_A.weight": t[FIRST]}, "lm_head.lora_A.weight extends nothing"),
        (lambda t: {**t, FIRST: t[FIRST][:, 1:]}, r"lora_A.weight is \[3, 23\], but .* make it \[3, 24\]; is it an"),
        (lambda t: {**t, FIRST: t[FIRST].astype(np.int8)}, "holds int8; quantised adapters are not read"),
        (lambda t: {**t, FIRST: np.full_like(t[FIRST], np.nan)}, "lora_A.weight holds numbers that are not finite"),
        (lambda t: {}, "holds no tensors"),
    ],
)
def test_tensors_of_another_base_are_named(copied, base, change, message, tmp_path):
    check_refused(copied(tensors=change), base, tmp_path, CheckpointError, message)


def without(tensors, name):
    return {key: value for key, value in tensors.items() if key != name}


def test_prompts_of_another_base_are_named(copied, base, tmp_path):
    narrow = copied("prompt", lambda t: {"prompt_embeddings": t["prompt_embeddings"][:, 1:]})
    check_refused(narrow, base, tmp_path, CheckpointError, r"prompt_embeddings is \[4, 23\], but .* make it \[4, 24\]")


def check_refused(adapter, base, tmp_path, error, message):
    with pytest.raises(error, match=message):
        bring_in(Incoming(str(adapter), str(base), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_files_that_are_not_there_or_damaged(copied, base, tmp_path):
    adapter = copied()
    (adapter / WEIGHTS).write_bytes((adapter / WEIGHTS).read_bytes()[:50])
    check_refused(adapter, base, tmp_path, CheckpointError, "not a whole safetensors file")
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    check_refused(adapter, base, tmp_path, CheckpointError, r"pickled weights \(.bin\) are not read")
    (adapter / CONFIG).unlink()
    check_refused(adapter, base, tmp_path, CheckpointError, f"{CONFIG}: no such file; name the adapter's directory")


def test_an_adapter_of_ours_knows_its_base(trained_there, base, runs, sequential, random_params, tmp_path):
    folder, _ = trained_there("plain")
    bring_in(Incoming(str(folder), str(base), str(tmp_path / "run"), config=runs.config("lora", base)))
    write_out(Outgoing(str(tmp_path / "run"), adapter=str(tmp_path / "out")))
    params = random_params(sequential)
    other = runs.write(tmp_path / "other", sequential, {**params, "embedding": params["embedding"] + 1})
    check_refused(tmp_path / "out", other, tmp_path / "new", CheckpointError, "was trained on another base")
    check_refused(folder, tmp_path / "run", tmp_path / "new", CheckpointError, "cannot be used|holds an adapter itself")
    with pytest.raises(ConfigError, match=r"method\.name = 'prompt', but the adapter is 'lora'"):
        bring_in(Incoming(str(folder), str(base), str(tmp_path / "new"), config=runs.config("prompt", base)))


@pytest.mark.parametrize("content", ["[]", '{"base_digest": 5}'])
def test_a_record_that_names_no_base(copied, base, content, tmp_path):
    adapter = copied()
    (adapter / "finetune_scaling.json").write_text(content)
    check_refused(adapter, base, tmp_path, CheckpointError, "finetune_scaling.json: names no base_digest")


def test_a_model_and_its_adapter_need_places_of_their_own(copied, base, public_base, tmp_path):
    bring_in(Incoming(str(copied()), str(base), str(tmp_path / "run")))
    for model in (tmp_path / "out", tmp_path / "out" / "model"):
        with pytest.raises(ConfigError, match="give each a directory of its own"):
            write_out(Outgoing(str(tmp_path / "run"), model=str(model), adapter=str(tmp_path / "out")))
        assert not (tmp_path / "out").exists()
    with pytest.raises(ConfigError, match="is a public model, and no run; bring it in first: --from-hf="):
        write_out(Outgoing(str(public_base), model=str(tmp_path / "out")))


def test_the_public_model_that_a_base_was_converted_from(copied, runs, sequential, random_params, tmp_path):
    public = {"name": "owner/model-70m", "family": "qwen3", "revision": "main", "commit": "abc123"}
    params = random_params(dataclasses.replace(sequential, qk_norm="head"))
    config = dataclasses.replace(sequential, qk_norm="head", scale_logits=False)
    converted = runs.write(tmp_path / "base", config, params, tokenizer="", public=public)
    adapter = copied(base_model_name_or_path="owner/model-160m")
    message = "base_model_name_or_path = 'owner/model-160m', but .* was converted from 'owner/model-70m'"
    check_refused(adapter, converted, tmp_path, CheckpointError, message)
    fields = json.loads((adapter / CONFIG).read_text())
    (adapter / CONFIG).write_text(json.dumps({**fields, "base_model_name_or_path": "Owner/Model-70m"}))
    bring_in(Incoming(str(adapter), str(converted), str(tmp_path / "run")))
    write_out(Outgoing(str(tmp_path / "run"), adapter=str(tmp_path / "out")))
    fields = json.loads((tmp_path / "out" / CONFIG).read_text())
    assert (fields["base_model_name_or_path"], fields["revision"]) == ("owner/model-70m", "abc123")


def test_a_model_goes_out_as_the_family_that_it_came_from(runs, sequential, random_params, tmp_path):
    """This one is a Llama and a Mistral."""
    config = dataclasses.replace(sequential, scale_logits=False)
    for family in ("llama", "mistral"):
        public = {"name": "here", "family": family}
        run = runs.write(tmp_path / family, config, random_params(config), tokenizer="", public=public)
        figures = write_out(Outgoing(str(run), model=str(tmp_path / f"{family} out")))
        assert figures["model"]["family"] == family
