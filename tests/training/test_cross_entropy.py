"""Chunked cross-entropy has the losses and gradients of plain log-softmax, and no array as large as all logits."""

import functools
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.sharding.axes import DEFAULT_RULES
from finetune_scaling.training import head_shard
from finetune_scaling.training.cross_entropy import cross_entropy, cross_entropy_sum

BATCH, LENGTH, WIDTH = 4, 6, 8
TOKENS = BATCH * LENGTH


def case(vocabulary: int):
    rng = np.random.default_rng(0)
    hidden = 2 * rng.normal(size=(BATCH, LENGTH, WIDTH))
    table = rng.normal(size=(vocabulary, WIDTH))
    targets = rng.integers(0, vocabulary, (BATCH, LENGTH))
    weights = rng.random((BATCH, LENGTH)) * (rng.random((BATCH, LENGTH)) < 0.7)  # some targets do not count
    hidden, table, weights = (array.astype(np.float32) for array in (hidden, table, weights))
    return hidden, table, targets.astype(np.int32), weights


def log_softmax_loss(hidden, table, targets, weights, cap=None):
    logits = jnp.einsum("bld,vd->blv", hidden, table)
    logits = jax.nn.log_softmax(logits if cap is None else cap * jnp.tanh(logits / cap))
    return -(jnp.take_along_axis(logits, targets[..., None], -1)[..., 0] * weights).sum()


def expected(vocabulary: int, cap: float | None = None):
    """Return the loss and its gradients with respect to hidden states, table and weights."""
    return jax.value_and_grad(functools.partial(log_softmax_loss, cap=cap), (0, 1, 3))(*case(vocabulary))


def computed(vocabulary: int, cap: float | None = None):
    """Return the same, then the gradient with a frozen table, and the loss without gradients."""

    @jax.jit
    def compute(hidden, table, targets, weights):
        loss = lambda *inputs: cross_entropy_sum(*inputs, DEFAULT_RULES, cap)  # noqa: E731
        inputs = (hidden, table, targets, weights)
        losses = cross_entropy(hidden, table, targets, DEFAULT_RULES, cap)
        return *jax.value_and_grad(loss, (0, 1, 3))(*inputs), jax.grad(loss)(*inputs), (losses * weights).sum()

    return compute(*case(vocabulary))


def assert_equal(found, expected, message: str = "") -> None:
    loss, gradients, with_frozen_table, evaluated = found
    check = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5, err_msg=message)
    for value, want in zip((loss, evaluated), (expected[0], expected[0]), strict=True):
        check(value, want)
    for value, want in zip((*gradients, with_frozen_table), (*expected[1], expected[1][0]), strict=True):
        check(value, want)


def limit(monkeypatch, logits: int, tokens: int) -> None:
    """Set the largest number of logits, and of tokens of a chunk with a part of the vocabulary."""
    monkeypatch.setattr(head_shard, "_ROWS", 8)
    monkeypatch.setattr(head_shard, "_MAX_LOGITS", logits)
    monkeypatch.setattr(head_shard, "_TOKENS", tokens)


@pytest.mark.parametrize(
    ("vocabulary", "logits", "tokens", "cap"),
    [
        pytest.param(61, 2**24, 1024, 2.0, id="one chunk"),
        pytest.param(61, 10 * 61, 5, None, id="three chunks of tokens"),
        pytest.param(61, 5 * 61, 5, 2.0, id="five chunks of tokens, the last one shifted"),
        pytest.param(64, 12 * 16, 12, None, id="chunks of the vocabulary"),
        pytest.param(61, 7 * 16, 7, None, id="the last chunks of both shifted"),
        pytest.param(61, 7 * 16, 7, 2.0, id="the last chunks of both shifted, with a soft cap"),
    ],
)
def test_losses_and_gradients_equal_log_softmax(monkeypatch, vocabulary, logits, tokens, cap):
    limit(monkeypatch, logits, tokens)
    assert_equal(computed(vocabulary, cap), expected(vocabulary, cap))


def test_large_logits_stay_finite(monkeypatch):
    limit(monkeypatch, 7 * 16, 7)
    hidden, table, targets, weights = case(61)
    gradient = jax.jit(jax.value_and_grad(functools.partial(cross_entropy_sum, axes=DEFAULT_RULES), (0, 1)))
    found = gradient(300 * hidden, table, targets, weights)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def equations(which, vocabulary: int) -> list[tuple[int, Any]]:
    """Return (executions, equation) of the traced gradient in bfloat16, those of loops included."""

    def inside(jaxpr, times: int) -> Iterator[tuple[int, Any]]:
        for equation in jaxpr.eqns:
            yield times, equation
            for value in equation.params.values():
                for inner in value if isinstance(value, list | tuple) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from inside(inner, times * equation.params.get("length", 1))

    hidden, table, targets, weights = case(vocabulary)
    gradient = jax.grad(functools.partial(cross_entropy_sum, axes=DEFAULT_RULES), which)
    inputs = (hidden.astype(jnp.bfloat16), table.astype(jnp.bfloat16), targets, weights)
    return list(inside(jax.make_jaxpr(gradient)(*inputs).jaxpr, 1))


def products(found: list[tuple[int, Any]], vocabulary: int) -> float:
    """Return the multiply-adds of all matrix products over those of all logits."""
    total = 0
    for times, equation in found:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            shared = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += times * shared * equation.outvars[0].aval.size
    return total / (TOKENS * vocabulary * WIDTH)


def values(found: list[tuple[int, Any]]) -> list[Any]:
    return [variable.aval for _, equation in found for variable in equation.outvars]


@pytest.mark.parametrize("vocabulary", [61, 64])
def test_a_frozen_table_is_not_copied_and_its_logits_are_computed_once(monkeypatch, vocabulary):
    limit(monkeypatch, 12 * 16, 12)
    found = equations(0, vocabulary)
    assert max(value.size for value in values(found)) == 12 * 16  # logits of a chunk, as many as hidden states
    carried = values([(times, equation) for times, equation in found if equation.primitive.name == "scan"])
    assert not any(value.dtype == jnp.float32 and value.size >= TOKENS * WIDTH for value in carried)
    assert products(found, vocabulary) == pytest.approx(2, rel=0.06)  # 61 is rounded up


def test_a_trained_table_has_a_second_pass_only_if_the_vocabulary_is_large(monkeypatch):
    limit(monkeypatch, 12 * 64, 12)
    assert products(equations((0, 1), 64), 64) == 3
    limit(monkeypatch, 12 * 16, 12)
    found = equations((0, 1), 64)
    assert products(found, 64) == 4
    assert not any(value.size > 12 * 16 and value.shape != (64, WIDTH) for value in values(found))


# fsdp, tensor: vocabulary, which the tensor axis divides only if it is 64, and the largest number of logits.
MESHES = {
    (4, 1): (61, 64),
    (2, 2): (64, 64),
    (1, 4): (64, 64),
    (4, 2): (64, 2**24),
    (1, 1): (61, 64),
}


def losses_on_meshes() -> list[list]:
    """Return what `computed` returns on each of MESHES, of eight devices or of four."""
    from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh

    head_shard._ROWS, head_shard._TOKENS = 8, 4
    found = []
    for (fsdp, tensor), (vocabulary, head_shard._MAX_LOGITS) in MESHES.items():
        mesh = make_mesh(ShardingConfig(fsdp, tensor), jax.devices()[: max(4, fsdp * tensor)])
        with jax.set_mesh(mesh):
            found.append(jax.tree.map(lambda x: x.tolist(), computed(vocabulary)))
    return found


def test_every_mesh_has_the_same_loss_and_gradients():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, check=True
    )
    for (mesh, (vocabulary, _)), found in zip(MESHES.items(), json.loads(done.stdout), strict=True):
        assert_equal(found, expected(vocabulary), f"fsdp, tensor: {mesh}")


if __name__ == "__main__":
    json.dump(losses_on_meshes(), sys.stdout)
