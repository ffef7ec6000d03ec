"""Models of every family as transformers saves them compute the same here and decode the same texts."""

import functools
import json
import runpy
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, Gemma3Config, Gemma3ForConditionalGeneration

from finetune_scaling.decoding.generation import generate, make_decoder
from finetune_scaling.decoding.settings import DecodingConfig
from finetune_scaling.errors import ConfigError
from finetune_scaling.interop.families.family import LAYER, to_file
from finetune_scaling.interop.families.registry import FAMILIES
from finetune_scaling.interop.hugging_face_model import load_model
from finetune_scaling.models.config import ModelConfig, count_parameters
from finetune_scaling.models.language_model import LanguageModel, Params
from finetune_scaling.models.token_layout import TokenLayout
from finetune_scaling.training.loss import loss_sum_and_count
from finetune_scaling.trees import path_name
from finetune_scaling.tuning.attach import attach
from finetune_scaling.tuning.method import configure
from finetune_scaling.tuning.partition import combine, partition
from finetune_scaling.tuning.registry import METHODS

merge_adapter = runpy.run_path(str(Path(__file__).parents[1] / "merging.py"))["merge_adapter"]
MADE = runpy.run_path(str(Path(__file__).parents[1] / "public_models.py"))
TEXT, VOCABULARY, EOS = MADE["TEXT"], MADE["VOCABULARY"], MADE["EOS"]
LENGTHS = (TEXT, 13, 10, TEXT - 10)  # a row; a row with padding; two texts in one row
PLACES = ((0, 0, 1), (1, 0, 1), (2, 0, 1), (2, 10, 2))  # of each text: its row, where it begins, its segment
NEW = 20  # decoded tokens
LORA = configure(METHODS, {"name": "lora", "rank": 2, "alpha": 3.0, "targets": ("query", "down")})

each_kind = pytest.mark.parametrize("kind", MADE["KINDS"])


class Model(NamedTuple):
    """A model of transformers, and the model that we read from its files."""

    reference: Any
    config: ModelConfig
    params: Params
    fields: dict[str, Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """made(kind) -> a random model of transformers, and the model that we read from its files."""
    return functools.cache(lambda kind: make_model(kind, tmp_path_factory.mktemp("model")))


def make_model(kind: str, folder: Path) -> Model:
    reference = MADE["make"](kind)
    reference.save_pretrained(folder)
    fields = json.loads((folder / "config.json").read_text())
    return Model(reference, *load_model(folder), fields)


def texts() -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(2, VOCABULARY, size=length) for length in LENGTHS]


def batch() -> dict[str, np.ndarray]:
    """Return all texts in rows of TEXT tokens; each token's target is the next one of its text."""
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
    """Compute text by text with torch."""
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


@functools.cache
def compiled(config: ModelConfig) -> Callable[[Params], Computed]:
    """Return a function that computes the same in one batch with LoRA, whose factors are among the parameters."""
    program = jax.jit(jax.value_and_grad(loss_and_logits(config), has_aux=True))

    def compute(params: Params) -> Computed:
        (loss, logits), gradients = program(params, batch())
        logits = np.asarray(logits)
        of_texts = [logits[row, start : start + n] for n, (row, start, _) in zip(LENGTHS, PLACES, strict=True)]
        return Computed(of_texts, float(loss), by_name(gradients))

    return compute


def loss_and_logits(config: ModelConfig):
    model = LanguageModel(config, LORA.adapter)

    def compute(params: Params, rows: dict) -> tuple[jax.Array, jax.Array]:
        layout = [rows[name] for name in ("positions", "segments", "prefix")]
        hidden, _ = model.forward(params, model.embed(params, rows["tokens"]), TokenLayout(*layout))
        return loss_sum_and_count(model, LORA, params, rows)[0], model.unembed(params, hidden)

    return compute


def with_lora(model: Model, noise: float) -> Params:
    """Return the parameters with LoRA's factors, where B is noise."""
    trainable, frozen = attach(model.config, LORA, jax.random.key(0), model.params)
    rng = np.random.default_rng(3)

    def move(path: tuple, leaf: jax.Array) -> jax.Array:
        return leaf + noise * rng.normal(size=leaf.shape) if path_name(path).endswith("lora_b") else leaf

    return combine(jax.tree_util.tree_map_with_path(move, trainable), frozen)


def by_name(tree: Params) -> dict[str, np.ndarray]:
    return {path_name(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def reference_tensors(model: Model, leaves: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return parameters or gradients as tensors of transformers by name."""
    groups: dict[str, list] = {}
    for tensor in FAMILIES[model.fields["model_type"]].tensors(model.config):
        groups.setdefault(tensor.name, []).append(tensor)
    found = {}
    for name, group in groups.items():
        for layer in range(model.config.layers) if LAYER in name else (None,):
            values = [leaves[tensor.path] if layer is None else leaves[tensor.path][layer] for tensor in group]
            found[name.replace(LAYER, str(layer)).replace("embed_out.", "lm_head.")] = to_file(group, values)
    return found


class Difference(NamedTuple):
    """Largest difference of logits; relative difference of the loss; largest relative difference of a gradient."""

    logits: float
    loss: float
    gradients: float


def compare(model: Model, compute: Callable[[Params], Computed], kind: str, noise: float) -> Difference:
    """Compare the model with LoRA, whose B is noise, with transformers' model with LoRA merged.

    Gradients are those of all weights; with noise also those of LoRA's factors, computed from transformers' gradients
    by the chain rule.
    """
    params = with_lora(model, noise)
    found, expected = compute(params), by_torch(_merged(model, params, kind) if noise else model.reference)
    pairs = list(zip(found.logits, expected.logits, strict=True))
    assert all(np.abs(right).max() > 1 for _, right in pairs)  # otherwise a small difference would prove little
    gradients = {name: leaf for name, leaf in found.gradients.items() if "/lora_" not in name}
    gradients = reference_tensors(model, gradients)
    assert gradients.keys() == expected.gradients.keys()
    worst = max(_relative(gradients[name], value) for name, value in expected.gradients.items())
    if noise:
        chained = _chained(by_name(params), found.gradients)
        worst = max(worst, *(_relative(found.gradients[name], value) for name, value in chained.items()))
    return Difference(
        logits=float(max(np.abs(left - right).max() for left, right in pairs)),
        loss=abs(found.loss - expected.loss) / expected.loss,
        gradients=float(worst),
    )


def _relative(left: np.ndarray, right: np.ndarray) -> float:
    return np.abs(left - right).max() / np.abs(right).max()


def _merged(model: Model, params: Params, kind: str) -> Any:
    """Return a model of transformers with LoRA merged."""
    tensors = reference_tensors(model, by_name(merge_adapter(model.config, LORA, params)[1]))
    other = MADE["make"](kind)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in tensors.items()}
    other.load_state_dict(weights, strict=not model.config.tied_head)
    return other


def _chained(params: dict[str, np.ndarray], gradients: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the gradients of LoRA's factors from those of the kernels: s G B' for A and s A' G for B."""
    chained = {}
    for name in params:
        folder, _, which = name.rpartition("/")
        if which.startswith("lora_"):
            a, b, kernel = params[f"{folder}/lora_a"], params[f"{folder}/lora_b"], gradients[f"{folder}/kernel"]
            product = kernel @ b.swapaxes(1, 2) if which == "lora_a" else a.swapaxes(1, 2) @ kernel
            chained[name] = LORA.adapter.scale * product
    return chained


def prompts() -> list[list[int]]:
    return [text[:length].tolist() for text, length in zip(texts(), (3, 12, 7), strict=False)]


def written(model: Model, **settings: Any) -> list[list[int]]:
    """Return what our model decodes after the prompts in one batch, by default greedily."""
    how, full = DecodingConfig(**settings), configure(METHODS, {"name": "full"})
    decoder = make_decoder(model.config, full, how, longest=NEW, end_ids=(EOS,), pad_id=0)
    found = generate(decoder, how, *partition(model.params, full.trainable), prompts(), batch_size=3)
    return [best.tokens for (best,) in found]


def written_by_reference(model: Model, **settings: Any) -> list[list[int]]:
    """Return what transformers' model decodes after each prompt separately."""
    found = []
    for prompt in prompts():
        tokens = torch.tensor([prompt])
        out = model.reference.generate(
            tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=NEW, do_sample=False, eos_token_id=EOS,
            pad_token_id=0, **settings,
        )  # fmt: skip
        new = out[0, len(prompt) :].tolist()
        found.append(new[: new.index(EOS)] if EOS in new else new)
    return found


@each_kind
def test_logits_loss_and_gradients_equal_those_of_transformers(made, kind):
    """In rows with padding and with two texts, beyond the original length of RoPE scaling; also with LoRA."""
    model = made(kind)
    for noise in (0.0, 0.3):
        difference = compare(model, compiled(model.config), kind, noise)
        assert difference.logits <= 1e-4
        assert difference.loss <= 1e-5
        assert difference.gradients <= 1e-3


@each_kind
def test_greedy_decoding_equals_that_of_transformers(made, kind):
    """With a growing cache, after prompts shorter and longer than windows."""
    model = made(kind)
    assert written(model) == written_by_reference(model)


def test_beam_search_equals_that_of_transformers(made):
    """Hypotheses share cache slots, some of which are outside a window or belong to another hypothesis."""
    model = made("gemma3_text")
    assert written(model, method="beam", beams=3) == written_by_reference(model, num_beams=3)


@each_kind
def test_parameter_count_equals_that_of_transformers(made, kind):
    model = made(kind)
    count = sum(weight.numel() for weight in model.reference.parameters())
    assert count_parameters(model.config).total == count
    assert sum(leaf.size for leaf in jax.tree.leaves(model.params)) == count


@each_kind
def test_written_config_is_read_by_us_and_by_transformers(made, kind, tmp_path):
    model = made(kind)
    family = FAMILIES[model.fields["model_type"]]
    fields = family.write_config(model.config)
    assert family.read_config(fields, "config.json") == model.config
    (tmp_path / "config.json").write_text(json.dumps(fields))
    again = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path), attn_implementation="eager").eval()
    again.load_state_dict(model.reference.state_dict())
    tokens = torch.from_numpy(texts()[0])[None]
    with torch.no_grad():
        torch.testing.assert_close(again(tokens).logits, model.reference(tokens).logits, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", ["mistral", "gemma3_text"])
def test_soft_prompt_leaves_the_window_as_in_transformers(made, kind):
    """Windows count virtual tokens, and Gemma scales the embeddings of tokens but not of virtual tokens."""
    model = made(kind)
    tuning = configure(METHODS, {"name": "prompt", "length": 3})
    trainable, frozen = attach(model.config, tuning, jax.random.key(0), model.params, range(2, VOCABULARY))
    decoder, text = LanguageModel(model.config), texts()[1][None]
    positions = np.arange(text.shape[1], dtype=np.int32)[None]
    layout = TokenLayout(positions, np.ones_like(positions), np.zeros_like(positions, bool))

    def logits(params: Params) -> jax.Array:
        hidden, _ = decoder.forward(params, *tuning.embed(decoder, params, text, layout))
        return decoder.unembed(params, hidden)

    found = jax.jit(logits)(combine(trainable, frozen))
    with torch.no_grad():
        prompt = torch.from_numpy(np.array(trainable["prompt"]["embedding"]))[None]
        embedded = model.reference.get_input_embeddings()(torch.from_numpy(text))
        expected = model.reference(inputs_embeds=torch.cat([prompt, embedded], dim=1)).logits.numpy()
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_text_model_of_a_multimodal_gemma(tmp_path):
    """The weights of its vision tower are ignored, and it is exported as gemma3_text."""
    text = MADE["make"]("gemma3_text").config.to_dict()
    vision = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 2,
              "image_size": 16, "patch_size": 8}  # fmt: skip
    whole = Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=VOCABULARY - 1
    )
    reference = Gemma3ForConditionalGeneration(whole).eval()
    reference.save_pretrained(tmp_path)
    config, params = load_model(tmp_path)
    names = {tensor.name.replace("language_model.", "") for tensor in FAMILIES["gemma3"].tensors(config)}
    assert names == {tensor.name for tensor in FAMILIES["gemma3_text"].tensors(config)}
    assert config == make_model("gemma3_text", tmp_path / "text").config
    found = reference_tensors(Model(reference, config, params, {"model_type": "gemma3_text"}), by_name(params))
    expected = {name.removeprefix("model.language_model."): w for name, w in reference.named_parameters()}
    for name, value in found.items():
        np.testing.assert_array_equal(value, expected[name.removeprefix("model.")].detach().numpy())
    with pytest.raises(ConfigError, match="gemma3_text"):
        FAMILIES["gemma3"].write_config(config)
