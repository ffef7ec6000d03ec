"""Every documented file and setting of PEFT adapters computes what PEFT computes, or is refused with its name."""

import json
import runpy
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from finetune_scaling.errors import UserError
from finetune_scaling.interop.peft.adapter_import import AdapterImport, import_adapter

TESTS = Path(__file__).parents[1]
PEFT = runpy.run_path(str(TESTS / "peft_adapters.py"))
DOCUMENTED = runpy.run_path(str(TESTS / "documented_rows.py"))["documented_rows"]("PEFT adapters")
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
EMBEDDING = "base_model.model.model.embed_tokens.weight"
FIRST = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight"


def lora(**settings):
    """Return the config of a random adapter, which changes the logits without training."""
    common = {"r": 3, "lora_alpha": 5, "target_modules": ["q_proj", "v_proj"], "init_lora_weights": False}
    return LoraConfig(**{**common, **settings}, task_type="CAUSAL_LM")


def fields(remove=(), **changes):
    def change(folder):
        old = json.loads((folder / CONFIG).read_text())
        kept = {name: value for name, value in old.items() if name not in remove}
        (folder / CONFIG).write_text(json.dumps({**kept, **changes}))

    return change


def tensors(change):
    return lambda folder: save_file(change(load_file(folder / WEIGHTS)), folder / WEIGHTS)


def cast(dtype):
    return tensors(lambda content: {name: value.to(dtype) for name, value in content.items()})


def tokenizer(change):
    """Return a function that saves the base's tokenizer, changed, next to the adapter, as a trainer does."""

    def save(folder):
        loaded = AutoTokenizer.from_pretrained(json.loads((folder / CONFIG).read_text())["base_model_name_or_path"])
        change(loaded)
        loaded.save_pretrained(folder)

    return save


def other_pieces(folder):
    """Save a tokenizer of the same size and special tokens that writes another piece for a letter."""
    tokenizer(unchanged)(folder)
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"t"', '"\u0142"'))


def unchanged(folder):
    pass


# The adapter's config or kind, how it is saved, and the change of its directory, of each row that is read.
READ = {
    "`LORA` with `use_rslora`, `use_dora`, `rank_pattern`, `alpha_pattern`": [
        (lora(use_rslora=True, rank_pattern={"v_proj": 2}, alpha_pattern={"1.self_attn.q_proj": 9}), {}, unchanged),
    ],
    "`IA3`, `PROMPT_TUNING`, `PREFIX_TUNING`": [("prompt", {}, unchanged)],  # the others: test_peft.py
    "`target_modules` as names, a regular expression or `all-linear`; `exclude_modules`": [
        (lora(target_modules=r".*\.self_attn\.(q|v)_proj"), {}, unchanged),
        (lora(target_modules="all-linear", exclude_modules=["down_proj", "o_proj"]), {}, unchanged),
        (lora(exclude_modules=r".*\.v_proj"), {}, unchanged),
    ],
    "float16 and bfloat16 adapters": [(lora(), {}, cast(torch.bfloat16))],
    "embeddings that `save_embedding_layers` saved unchanged": [(lora(), {"save_embedding_layers": True}, unchanged)],
    "`init_lora_weights`: true, false, gaussian, orthogonal, eva": [
        (lora(), {}, fields(init_lora_weights=True)), (lora(), {}, fields(init_lora_weights="gaussian")),
    ],
    "`inference_mode`, `task_type`, `revision`, `peft_version`, `fan_in_fan_out` = false": [
        (lora(), {}, fields(inference_mode=False, task_type=None, revision="main", fan_in_fan_out=False)),
        (lora(), {}, fields(remove=["peft_version", "auto_mapping"])),
    ],
    "the base's tokenizer, saved next to the adapter, also with another chat template": [
        (lora(), {}, tokenizer(unchanged)), (lora(), {}, tokenizer(lambda t: setattr(t, "chat_template", "{{ x }}"))),
    ],
}  # fmt: skip


def several(folder):
    """Move an adapter into a subfolder, as PEFT saves those that are not named `default`."""
    (folder / "german").mkdir()
    for name in (CONFIG, WEIGHTS):
        (folder / name).rename(folder / "german" / name)


def with_trained_embedding(folder):
    fields(modules_to_save=["embed_tokens"])(folder)
    tensors(lambda content: {**content, EMBEDDING: torch.zeros(300, 24)})(folder)


def unset(name, value):
    return (fields(**{name: value}), f"{CONFIG}: {name} = .* is not supported")


# The change of an adapter's directory and part of the message of each row that is refused.
REFUSED = {
    "trained or resized embeddings": [
        (tensors(lambda c: {**c, EMBEDDING: torch.zeros(300, 24)}), f"tensor {EMBEDDING} differs from the base's"),
        (tensors(lambda c: {**c, EMBEDDING: torch.zeros(301, 24)}), f"tensor {EMBEDDING} differs from the base's"),
    ],
    "adapters of embeddings and heads": [
        (tensors(lambda c: {**c, "base_model.model.lm_head.lora_A.weight": torch.zeros(3, 24)}), "extends no module"),
        (tensors(lambda c: {**c, EMBEDDING.replace("weight", "lora_embedding_A"): torch.zeros(3, 300)}), "no module"),
    ],
    "`modules_to_save`, `trainable_token_indices`, `target_parameters`": [
        unset("modules_to_save", ["embed_tokens"]), unset("trainable_token_indices", [3]),
        unset("target_parameters", ["a.b"]),
        (with_trained_embedding, f"{CONFIG}: modules_to_save = .* is not supported"),
    ],
    "`bias` = all or lora_only, `lora_bias`": [
        unset("bias", "all"), unset("bias", "lora_only"), unset("lora_bias", True),
    ],
    "`layers_to_transform`, `layers_pattern`, `layer_replication`, tensors of some layers only": [
        unset("layers_to_transform", [0]), unset("layers_pattern", "layers"), unset("layer_replication", [[0, 1]]),
        (tensors(lambda c: {n: v for n, v in c.items() if ".1." not in n}), "layers.1.* is missing; .* in every layer"),
    ],
    "`init_lora_weights`: pissa, olora, loftq, corda and others that change the base": [
        unset("init_lora_weights", name) for name in ("pissa", "pissa_niter_16", "olora", "loftq", "corda", "new")
    ],
    "`fan_in_fan_out`, `alora_invocation_tokens`, `use_qalora`, `megatron_config`, unknown fields that are set": [
        unset("fan_in_fan_out", True), unset("alora_invocation_tokens", [1]), unset("use_qalora", True),
        unset("megatron_config", {"a": 1}), unset("velora_config", {"scale": 1}), unset("a_field_of_the_future", 2),
    ],
    "other types (`ADALORA`, `VERA`, `P_TUNING`, `TRAINABLE_TOKENS`, ...)": [
        unset("peft_type", name) for name in ("ADALORA", "VERA", "P_TUNING", "TRAINABLE_TOKENS", "XLORA", None)
    ],
    "a tokenizer with added tokens, other special tokens or other ids than the base's": [
        (tokenizer(lambda t: t.add_tokens(["<word>"])), "differ in the number of ids. Fix: merge the adapter"),
        (tokenizer(lambda t: t.add_special_tokens({"extra_special_tokens": ["a"]})), "differ in special tokens"),
        (tokenizer(lambda t: setattr(t, "eos_token", "<s>")), "that begin and end a text. Fix: import the base with"),
        (other_pieces, "differ in the ids of a text"),
        (lambda d: (d / "vocab.json").write_text("{}"), "has no tokenizer.json"),
    ],
    "`adapter_model.bin`": [(lambda d: (d / WEIGHTS).rename(d / "adapter_model.bin"), r"pickled weights \(.bin\)")],
    "a directory of several adapters": [(several, f"{CONFIG}: no such file. Fix: name the directory of one .* german")],
    "`target_modules` that contradict the tensors": [
        (fields(target_modules=["q_proj"]), "v_proj.lora_A.weight belongs to a module that target_modules or"),
        (fields(exclude_modules=["v_proj"]), "v_proj.lora_A.weight belongs to a module that target_modules or"),
        (fields(target_modules=["q_proj", "v_proj", "up_proj"]), "up_proj.lora_A.weight is missing, although"),
        (fields(target_modules="("), r"'\(' is neither a regular expression nor a list"),
        (fields(target_modules=3), "3 is neither a regular expression nor a list"),
    ],
    "missing tensors, other shapes, integers, NaN": [
        (tensors(lambda c: {n: v for n, v in c.items() if n != FIRST}), "lora_A.weight is missing"),
        (tensors(lambda c: {**c, FIRST: torch.zeros(3, 23)}), r"has shape \[3, 23\]"),
        (tensors(lambda c: {**c, FIRST: c[FIRST].to(torch.int8)}), "dtype int8"),
        (tensors(lambda c: {**c, FIRST: c[FIRST] / 0}), "values that are not finite"),
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(public_base, tmp_path_factory):
    """saved(config or kind, options) -> the directory of an adapter that PEFT saved."""
    made = {}

    def save(what, options):
        key = str((what, options))
        if key not in made:
            made[key] = tmp_path_factory.mktemp("adapter")
            torch.manual_seed(1)
            plain = AutoModelForCausalLM.from_pretrained(public_base)
            model = PEFT["new_adapter"](what, public_base) if isinstance(what, str) else get_peft_model(plain, what)
            model.save_pretrained(made[key], **options)
        return made[key]

    return save


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in READ.items() for case in cases])
def test_logits_are_those_of_peft(row, case, saved, public_base, base, run_logits, reference_logits, tmp_path):
    what, options, change = case
    folder = tmp_path / "adapter"
    shutil.copytree(saved(what, options), folder)
    change(folder)
    import_adapter(AdapterImport(str(folder), str(base), str(tmp_path / "run")))
    expected = reference_logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(public_base), folder))
    assert np.abs(expected - run_logits(base)).max() > 0.05
    np.testing.assert_allclose(run_logits(tmp_path / "run"), expected, atol=1e-4)


@pytest.mark.parametrize(("row", "case"), [(row, case) for row, cases in REFUSED.items() for case in cases])
def test_other_adapters_are_refused(row, case, saved, base, tmp_path):
    change, message = case
    folder = tmp_path / "adapter"
    shutil.copytree(saved(lora(), {}), folder)
    change(folder)
    with pytest.raises(UserError, match=message):
        import_adapter(AdapterImport(str(folder), str(base), str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("template", "warns"), [("{{ x }}", True), (None, False)])
def test_another_chat_template_is_named(template, warns, saved, base, tmp_path, caplog):
    folder = tmp_path / "adapter"
    shutil.copytree(saved(lora(), {}), folder)
    tokenizer(lambda loaded: setattr(loaded, "chat_template", template))(folder)
    import_adapter(AdapterImport(str(folder), str(base), str(tmp_path / "run")))
    assert (f"{folder / 'chat_template.jinja'}: the base has another chat template" in caplog.text) == warns


def test_every_documented_row_has_a_case():
    assert {**dict.fromkeys(READ, "read"), **dict.fromkeys(REFUSED, "refused")} == DOCUMENTED
