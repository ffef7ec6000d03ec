"""Chunked cross-entropy has the losses and gradients of plain log-softmax, and no array as large as all logits."""

import functools
import itertools
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from finetune_scaling.sharding.axes import DEFAULT_RULES
from finetune_scaling.training import cross_entropy as module
from finetune_scaling.training.cross_entropy import cross_entropy

BATCH, LENGTH, WIDTH = 4, 6, 8


def case(vocabulary: int, dtype=np.float32):
    rng = np.random.default_rng(0)
    hidden = 2 * rng.normal(size=(BATCH, LENGTH, WIDTH))
    table = rng.normal(size=(vocabulary, WIDTH))
    targets = rng.integers(0, vocabulary, (BATCH, LENGTH))
    weights = rng.random((BATCH, LENGTH))
    return hidden.astype(dtype), table.astype(np.float32), targets.astype(np.int32), weights.astype(np.float32)


def log_softmax_loss(hidden, table, targets, weights, cap=None):
    logits = jnp.einsum("bld,vd->blv", hidden, table)
    logits = jax.nn.log_softmax(logits if cap is None else cap * jnp.tanh(logits / cap))
    return -(jnp.take_along_axis(logits, targets[..., None], -1)[..., 0] * weights).sum()


def chunked_loss(hidden, table, targets, weights, cap=None):
    return (cross_entropy(hidden, table, targets, DEFAULT_RULES, cap) * weights).sum()


def assert_equals_log_softmax(vocabulary: int, cap: float | None = None) -> None:
    inputs = case(vocabulary)
    want = jax.jit(jax.value_and_grad(functools.partial(log_softmax_loss, cap=cap), (0, 1)))(*inputs)
    got = jax.jit(jax.value_and_grad(functools.partial(chunked_loss, cap=cap), (0, 1)))(*inputs)
    jax.tree.map(lambda left, right: np.testing.assert_allclose(left, right, rtol=2e-5, atol=1e-5), got, want)


@pytest.fixture
def small_chunks(monkeypatch):
    """Chunks of eight rows of the vocabulary."""
    monkeypatch.setattr(module, "_ROWS", 8)
    monkeypatch.setattr(module, "_MAX_LOGITS", 8 * BATCH * LENGTH)


@pytest.mark.parametrize(("vocabulary", "cap"), [(8, None), (16, None), (61, None), (64, None), (61, 2.0), (64, 2.0)])
def test_losses_and_gradients_equal_log_softmax(small_chunks, vocabulary, cap):
    assert_equals_log_softmax(vocabulary, cap)


@pytest.mark.parametrize("cap", [None, 2.0])
def test_a_small_vocabulary_equals_log_softmax(cap):
    assert_equals_log_softmax(61, cap)


def test_large_logits_stay_finite(small_chunks):
    hidden, table, targets, weights = case(61)
    loss, gradient = jax.value_and_grad(chunked_loss, (0, 1))(300 * hidden, table, targets, weights)
    assert np.isfinite(loss)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))


def shapes(function, *inputs) -> set[tuple[int, ...]]:
    """Return the shapes of all values of a traced function, including those in its loops."""

    def inside(jaxpr):
        for equation in jaxpr.eqns:
            yield from (variable.aval.shape for variable in equation.outvars)
            for value in equation.params.values():
                for inner in value if isinstance(value, list | tuple) else [value]:
                    inner = getattr(inner, "jaxpr", inner)
                    if hasattr(inner, "eqns"):
                        yield from inside(inner)

    return set(inside(jax.make_jaxpr(function)(*inputs).jaxpr))


def test_no_array_holds_all_logits_and_a_frozen_table_has_no_gradient(small_chunks):
    inputs = case(64)
    both, hidden_only = (shapes(jax.grad(chunked_loss, which), *inputs) for which in ((0, 1), 0))
    assert not any(64 in shape and LENGTH in shape for shape in both | hidden_only)
    assert (8, WIDTH) in both  # the gradient of a chunk
    differentiated = shapes(jax.grad(chunked_loss, 1), *inputs)
    assert (BATCH, LENGTH, 8) in differentiated
    # Chunks of the table have the shape of their gradient, which is one more value.
    counts = [
        str(jax.make_jaxpr(jax.grad(chunked_loss, which))(*inputs)).count(f"f32[8,{WIDTH}]") for which in ((0, 1), 0)
    ]
    assert counts[0] > counts[1]


def losses_on_meshes() -> dict[str, list]:
    """Return {mesh: [vocabulary, loss, gradient of hidden, of the table]} on eight devices.

    The tensor axis divides a vocabulary of 64, not 61.
    """
    from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh

    module._ROWS, module._MAX_LOGITS = 8, 64
    found = {}
    for (fsdp, tensor), vocabulary in itertools.product([(4, 1), (2, 2), (1, 4), (4, 2), (1, 1)], (61, 64)):
        mesh = make_mesh(ShardingConfig(fsdp, tensor), jax.devices()[: max(4, fsdp * tensor)])
        with jax.set_mesh(mesh):
            loss, gradients = jax.jit(jax.value_and_grad(chunked_loss, (0, 1)))(*case(vocabulary))
        arrays = [np.asarray(leaf).tolist() for leaf in gradients]
        found[f"{dict(mesh.shape)} {vocabulary}"] = [vocabulary, float(loss), *arrays]
    return found


def test_every_mesh_has_the_same_loss_and_gradients():
    flags = f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, __file__], env={**os.environ, "XLA_FLAGS": flags}, stdout=subprocess.PIPE, check=True
    )
    want = {v: jax.value_and_grad(log_softmax_loss, (0, 1))(*case(v)) for v in (61, 64)}
    found = json.loads(done.stdout)
    assert len(found) == 10
    for mesh, (vocabulary, loss, *gradients) in found.items():
        check = functools.partial(np.testing.assert_allclose, rtol=2e-5, atol=1e-5, err_msg=mesh)
        check(loss, want[vocabulary][0])
        jax.tree.map(check, [np.array(g) for g in gradients], [np.asarray(g) for g in want[vocabulary][1]])


if __name__ == "__main__":
    json.dump(losses_on_meshes(), sys.stdout)
