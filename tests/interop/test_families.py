"""Models of every family that transformers makes and saves: read, they compute the same, and write the same texts."""

import json
import runpy
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from finetune_scaling.decoding.generation import generate, make_writer
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.interop.family import LAYER, to_theirs
from finetune_scaling.interop.hugging_face import FAMILIES, load_model
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.layout import Layout
from finetune_scaling.training.loss import token_losses
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.lora import merge
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine, partition, path_name
from finetune_scaling.tuning.registry import METHODS

MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))
TEXT, VOCABULARY, EOS = MADE["TEXT"], MADE["VOCABULARY"], MADE["EOS"]
LENGTHS = (TEXT, 13, 10, TEXT - 10)  # a row; a row with padding; two texts in one row
PLACES = ((0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 10, 2))  # of each text: its row, where it begins, its segment
LORA = configure(METHODS, {"name": "lora", "rank": 2, "alpha": 3.0})

each_kind = pytest.mark.parametrize("kind", MADE["KINDS"])


class Model(NamedTuple):
    """One model twice."""

    theirs: Any
    config: ModelConfig
    params: Params
    fields: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(kind): a random model, as transformers has it and as ours read from its files."""
    found: dict[str, Model] = {}

    def make(kind: str) -> Model:
        if kind not in found:
            folder = tmp_path_factory.mktemp("model")
            theirs = MADE["make"](kind)
            theirs.save_pretrained(folder)
            fields = json.loads((folder / "config.json").read_text())
            found[kind] = Model(theirs, *load_model(folder), fields)
        return found[kind]

    return make


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, VOCABULARY, size=length) for length in LENGTHS]


def batch() -> dict[str, np.ndarray]:
    """All texts in rows of TEXT tokens; each token's target is the next of its text."""
    rows = {name: np.zeros((3, TEXT), np.int32) for name in ("tokens", "targets", "positions", "segments")}
    rows |= {"weights": np.zeros((3, TEXT), np.float32), "prefix": np.zeros((3, TEXT), bool)}
    for text, (row, start, segment) in zip(texts(), PLACES, strict=True):
        place = slice(start, start + len(text))
        rows["tokens"][row, place], rows["positions"][row, place] = text, np.arange(len(text))
        rows["targets"][row, place], rows["segments"][row, place] = np.append(text[1:], 0), segment
        rows["weights"][row, place] = np.arange(len(text)) < len(text) - 1
    return rows


class Computed(NamedTuple):
    """Logits of every text, the sum of all losses, and its gradients by name."""

    logits: list[np.ndarray]
    loss: float
    gradients: dict[str, np.ndarray]


def by_torch(model) -> Computed:
    """Text by text."""
    model.zero_grad()
    logits, total = [], 0.0
    for text in texts():
        tokens = torch.from_numpy(text)[None]
        out = model(tokens).logits
        loss = torch.nn.functional.cross_entropy(out[0, :-1], tokens[0, 1:], reduction="sum")
        loss.backward()
        logits.append(out[0].detach().numpy())
        total += loss.item()
    return Computed(logits, total, {name: weight.grad.numpy() for name, weight in model.named_parameters()})


@pytest.fixture(scope="module")
def by_ours():
    """by_ours(config, params): the same in one batch, of the model with LoRA, whose factors are among the params."""
    programs = {}

    def compute(config: ModelConfig, params: Params) -> Computed:
        if config not in programs:
            programs[config] = jax.jit(jax.value_and_grad(loss_and_logits(config), has_aux=True))
        (loss, logits), gradients = programs[config](params, batch())
        logits = np.asarray(logits)
        of_texts = [logits[row, start : start + n] for n, (row, start, _) in zip(LENGTHS, PLACES, strict=True)]
        named = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(gradients)}
        return Computed(of_texts, float(loss), named)

    return compute


def loss_and_logits(config: ModelConfig):
    model = LanguageModel(config, LORA.adapter)

    def compute(params: Params, rows: dict) -> tuple[jax.Array, jax.Array]:
        layout = [rows[name] for name in ("positions", "segments", "prefix")]
        hidden, _ = model.forward(params, model.embed(params, rows["tokens"]), Layout(*layout))
        return token_losses(model, LORA, params, rows).sum(), model.unembed(params, hidden)

    return compute


def with_lora(model: Model, noise: float) -> Params:
    """The parameters with LoRA's factors, B being noise."""
    trainable, frozen = attach(model.config, LORA, jax.random.key(0), model.params)
    rng = np.random.default_rng(3)

    def move(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf + noise * rng.normal(size=leaf.shape) if path_name(path).endswith("lora_b") else leaf

    return combine(jax.tree_util.tree_map_with_path(move, trainable), frozen)


def theirs_of(model: Model, params: Params) -> dict[str, np.ndarray]:
    """Parameters, or their gradients, as tensors of theirs by name."""
    leaves = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    groups: dict[str, list] = {}
    for tensor in FAMILIES[model.fields["model_type"]].tensors(model.config):
        groups.setdefault(tensor.theirs, []).append(tensor)
    found = {}
    for name, group in groups.items():
        layers = range(model.config.layers) if LAYER in name else (None,)
        for layer in layers:
            values = [leaves[tensor.ours] if layer is None else leaves[tensor.ours][layer] for tensor in group]
            found[name.replace(LAYER, str(layer)).replace("embed_out.", "lm_head.")] = to_theirs(group, values)
    return found


def check_same(ours: Computed, theirs: Computed) -> None:
    for left, right in zip(ours.logits, theirs.logits, strict=True):
        assert np.abs(right).max() > 1  # else the bound below would say little
        np.testing.assert_allclose(left, right, atol=1e-4)
    np.testing.assert_allclose(ours.loss, theirs.loss, rtol=1e-5)


def check_gradients(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> None:
    assert ours.keys() == theirs.keys()
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, atol=1e-3 * np.abs(value).max(), err_msg=name)


def nested(flat: dict[str, np.ndarray]) -> Params:
    tree: Params = {}
    for name, value in flat.items():
        *folders, last = name.split("/")
        place = tree
        for folder in folders:
            place = place.setdefault(folder, {})
        place[last] = value
    return tree


@each_kind
def test_logits_loss_and_gradients_are_theirs(made, by_ours, kind):
    """In rows with padding and with two texts, beyond the length that positions are stretched from."""
    model = made(kind)
    ours, theirs = by_ours(model.config, with_lora(model, 0.0)), by_torch(model.theirs)
    check_same(ours, theirs)
    plain = {name: leaf for name, leaf in ours.gradients.items() if "lora" not in name}
    check_gradients(theirs_of(model, nested(plain)), theirs.gradients)


@each_kind
def test_lora_on_it_has_the_merged_models_logits_and_the_chain_rules_gradients(made, by_ours, kind):
    model = made(kind)
    params = with_lora(model, 0.3)
    ours = by_ours(model.config, params)
    other = MADE["make"](kind)
    merged = {name: torch.from_numpy(np.array(v)) for name, v in theirs_of(model, merge(params, LORA.adapter)).items()}
    other.load_state_dict(merged, strict=not model.config.tied_head)
    check_same(ours, by_torch(other))
    factors = {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    chained = {}
    for name in factors:
        folder, _, which = name.rpartition("/")
        if which in ("lora_a", "lora_b"):
            a, b, kernel = factors[f"{folder}/lora_a"], factors[f"{folder}/lora_b"], ours.gradients[f"{folder}/kernel"]
            parts = kernel @ b.swapaxes(1, 2) if which == "lora_a" else a.swapaxes(1, 2) @ kernel
            chained[name] = LORA.adapter.scale * parts
    check_gradients({name: ours.gradients[name] for name in chained}, chained)


@each_kind
def test_texts_are_theirs(made, kind):
    """Greedy search, whose cache grows on the way, after prompts shorter and longer than windows."""
    model = made(kind)
    how, new = DecodingConfig(), 20
    full = configure(METHODS, {"name": "full"})
    writer = make_writer(model.config, full, how, longest=new, eos_id=EOS, pad_id=0)
    prompts = [text[:length].tolist() for text, length in zip(texts(), (3, 12, 7), strict=False)]
    found = generate(writer, how, *partition(model.params, full.trainable), prompts, batch_size=3)
    for prompt, (ours,) in zip(prompts, found, strict=True):
        tokens = torch.tensor([prompt])
        out = model.theirs.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=new, do_sample=False, eos_token_id=EOS,
            pad_token_id=0,
        )  # fmt: skip
        expected = out[0, len(prompt) :].tolist()
        assert ours.tokens == (expected[: expected.index(EOS)] if EOS in expected else expected)


@each_kind
def test_parameters_are_as_many_as_theirs(made, kind):
    model = made(kind)
    theirs = sum(weight.numel() for weight in model.theirs.parameters())
    assert count_parameters(model.config).total == theirs
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == theirs


@each_kind
def test_a_config_that_is_written_is_read_again(made, kind, tmp_path):
    """By us, and by transformers, whose model of it computes what the first one does."""
    model = made(kind)
    family = FAMILIES[model.fields["model_type"]]
    fields = family.write_config(model.config)
    assert family.read_config(fields, "config.json") == model.config
    (tmp_path / "config.json").write_text(json.dumps(fields))
    again = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), attn_implementation="eager").eval()
    again.load_state_dict(model.theirs.state_dict())
    tokens = torch.from_numpy(texts()[0])[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model.theirs(tokens).logits, atol=1e-6, rtol=0)
