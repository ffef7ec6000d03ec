"""A step with the learning rate outside is optax's with it inside; schedules against their closed forms."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from finetune_scaling import configuration
from finetune_scaling.errors import ConfigError
from finetune_scaling.training.optimizers import OptimizerConfig, ScheduleConfig, learning_rate, make_optimizer

RATE, CLIP, DECAY = 0.03, 0.5, 0.1
clip = optax.clip_by_global_norm(CLIP)

REFERENCES = {
    "adafactor": (OptimizerConfig(clip_norm=CLIP), optax.chain(clip, optax.adafactor(RATE))),
    "adafactor, plain": (
        OptimizerConfig(clip_norm=CLIP, parameter_scale=False, weight_decay=DECAY, decayed_parameters=".*"),
        optax.chain(clip, optax.adafactor(RATE, multiply_by_parameter_scale=False, weight_decay_rate=RATE * DECAY)),
    ),
    "adamw": (
        OptimizerConfig("adamw", clip_norm=CLIP, weight_decay=DECAY, decayed_parameters=".*", b1=0.8, b2=0.95),
        optax.chain(clip, optax.adamw(RATE, b1=0.8, b2=0.95, weight_decay=DECAY)),
    ),
    "adamw, not clipped": (
        OptimizerConfig("adamw", clip_norm=None, parameter_scale=False),
        optax.adamw(RATE, weight_decay=0.0),
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_three_steps_are_optaxs_with_the_rate_inside(name):
    """With a matrix large enough to be factored, a vector, and the hole that a frozen leaf leaves."""
    config, reference = REFERENCES[name]
    params, *gradients = random_trees({"embedding": (130, 140), "final_norm": (5,), "frozen": None}, 4)
    ours, expected = (
        trained(make_optimizer(config), params, gradients, RATE),
        trained(reference, params, gradients, 1.0),
    )
    assert ours["frozen"] is None
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=1e-5, atol=1e-7), ours, expected)
    assert jnp.abs(ours["embedding"] - params["embedding"]).max() > RATE / 2


def random_trees(shapes, count):
    rng = np.random.default_rng(0)
    draw = lambda shape: None if shape is None else jnp.float32(rng.normal(size=shape))  # noqa: E731
    return [{name: draw(shape) for name, shape in shapes.items()} for _ in range(count)]


def trained(transformation, params, gradients, rate):
    @jax.jit
    def steps(params):
        state = transformation.init(params)
        for gradient in gradients:
            updates, state = transformation.update(gradient, state, params)
            params = optax.apply_updates(params, jax.tree.map(lambda leaf: leaf * rate, updates))
        return params

    return steps(params)


SHAPES = {"layers/up/kernel": (2, 140, 130), "layers/up/lora_a": (2, 140, 128), "prompt/embedding": (150, 140)}


@pytest.mark.parametrize(
    ("factored", "names"),
    [
        (None, ["layers/up/kernel"]),
        ("none", []),
        (".*", list(SHAPES)),
        (None, ["layers/up/lora_a", "prompt/embedding"]),  # a PET method trains no weight of the model
    ],
)
def test_adapters_and_prompts_are_not_factored_unless_the_config_says_so(factored, names):
    """Each leaf trains as optax's Adafactor trains it alone, factored or not."""
    shapes = SHAPES if factored or names != list(SHAPES)[1:] else {name: SHAPES[name] for name in names}
    fields = {} if factored is None else {"factored_parameters": factored}
    transformation = make_optimizer(OptimizerConfig(clip_norm=None, **fields))
    params, *gradients = random_trees(shapes, 3)
    ours = trained(transformation, params, gradients, RATE)
    for name in shapes:
        is_factored = name in names and (factored is not None or "kernel" in name)
        alone = [{name: tree[name]} for tree in (params, *gradients)]
        expected = trained(optax.adafactor(RATE, factored=is_factored), alone[0], alone[1:], 1.0)
        np.testing.assert_allclose(ours[name], expected[name], rtol=1e-5, atol=1e-7)


def test_decay_leaves_norms_biases_prompts_and_lora_b_alone():
    decayed = {"embedding", "layers/up/kernel", "layers/up/lora_a"}
    others = {"layers/up/lora_b", "layers/norm/scale", "layers/up/bias", "prompt/embedding"}
    params = dict.fromkeys(decayed | others, jnp.ones((2, 2)))
    config = OptimizerConfig("adamw", weight_decay=0.5)
    ours = trained(make_optimizer(config), params, [jax.tree.map(jnp.zeros_like, params)], 1.0)
    assert {name for name, leaf in ours.items() if leaf[0, 0] == 0.5} == decayed


def rates(total: int, **fields) -> list[float]:
    config = ScheduleConfig(learning_rate=2.0, **fields)
    return [learning_rate(config, step, total) for step in range(total + 1)]


@pytest.mark.parametrize("warmup", [0, 4])
def test_cosine_is_half_a_wave_from_the_peak_to_its_final_fraction(warmup):
    values = rates(24, name="cosine", warmup_steps=warmup, final_fraction=0.1)
    expected = optax.cosine_decay_schedule(2.0, 24 - warmup, alpha=0.1)
    np.testing.assert_allclose(values[warmup:], [expected(step) for step in range(25 - warmup)], rtol=1e-6)
    assert values[warmup] == 2.0
    assert math.isclose(values[-1], 0.2)


def test_linear_falls_evenly_to_its_final_fraction():
    np.testing.assert_allclose(rates(10, name="linear", final_fraction=0.5), np.linspace(2, 1, 11))


def test_constant_stays_after_an_even_warm_up():
    values = rates(10, name="constant", warmup_steps=4)
    np.testing.assert_allclose(values, [0.5, 1.0, 1.5] + [2.0] * 8)


def test_wsd_is_stable_and_then_decays_over_the_last_part():
    values = rates(20, name="wsd", decay_fraction=0.25, final_fraction=0.2)
    np.testing.assert_allclose(values[:16], 2.0)
    np.testing.assert_allclose(values[15:], np.linspace(2, 0.4, 6))


def test_wsd_may_do_without_decay():
    assert set(rates(10, name="wsd", decay_fraction=0.0)) == {2.0}


def test_no_step_has_a_rate_of_zero_before_the_end():
    """Warm-up begins above zero and covers runs that are shorter than it."""
    for name in ("cosine", "linear", "constant", "wsd"):
        assert min(rates(5, name=name, warmup_steps=8)) > 0
        assert min(rates(12, name=name, warmup_steps=3)[:-1]) > 0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"learning_rate": 0.0}, r"schedule\.learning_rate = 0\.0 must be positive"),
        ({"learning_rate": math.nan}, r"schedule\.learning_rate = nan must be positive"),
        ({"learning_rate": 1, "name": "cosin"}, r"schedule\.name = 'cosin' is unknown; did you mean 'cosine'"),
        ({"learning_rate": 1, "warmup": 3}, r"schedule\.warmup is not a field of schedule"),
    ],
)
def test_mistakes_in_a_schedule_are_named(fields, message):
    with pytest.raises(ConfigError, match=message):
        configuration.build(ScheduleConfig, fields, "schedule")
