"""The real programs of a run, compiled for a slice from shapes alone: what the compiler says that they need.

The programs are those that training and scoring run: training.step and decoding.greedy build them, the placement
divides their arguments. No array is ever made, so a model of any size can be planned on a small machine.
"""

import dataclasses
import logging
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from finetune_scaling.decoding.greedy import make_greedy
from finetune_scaling.planning.chips import GIB
from finetune_scaling.planning.collectives import Collectives, collectives
from finetune_scaling.planning.layout import BATCH_FIELDS, Layout, held_bytes, placed_state, shapes
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.rules import Placement
from finetune_scaling.training.step import make_evaluation_step, make_train_step
from finetune_scaling.tuning.partition import Tree

log = logging.getLogger(__name__)

TRAINING, EVALUATION, DECODING = "training", "evaluation", "decoding"


@dataclasses.dataclass(frozen=True)
class Program:
    """What one compiled program needs on each chip, in bytes.

    temporary_bytes: the compiler's own count, which takes some buffers twice that donated arguments and temporaries
    share: with the arguments it may be more than peak_bytes, the most that is in use at any time. That is what has to
    fit. Where the compiler gave up since it does not, peak_bytes is what it asked for, temporaries are what that leaves
    beside the arguments, and collectives is None.
    """

    fits: bool
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    peak_bytes: int
    collectives: Collectives | None
    compile_seconds: float | None


@dataclasses.dataclass(frozen=True)
class Traced:
    """A program that is ready to compile, and the bytes that its arguments and results take on a chip."""

    lowered: Any
    argument_bytes: int
    output_bytes: int


def lower(workload: Workload, layout: Layout, mesh: Mesh, programs: Sequence[str]) -> dict[str, Traced]:
    """Traces the named programs (TRAINING, EVALUATION, DECODING) for a mesh."""
    model = dataclasses.replace(workload.model, remat=layout.remat)
    workload = dataclasses.replace(workload, model=model)
    placement = Placement(model, mesh, layout.axes)
    makers: Mapping[str, Callable[..., Traced]] = {TRAINING: _training, EVALUATION: _evaluation, DECODING: _decoding}
    shapes(workload)  # before the mesh is in context, whose devices can run nothing
    with jax.set_mesh(mesh):
        return {name: makers[name](workload, layout, placement) for name in programs}


def _training(workload: Workload, layout: Layout, placement: Placement) -> Traced:
    state, frozen = shapes(workload)
    step = make_train_step(workload.model, workload.tuning, workload.optimizer, layout.accumulation, layout.axes)
    batch = _batch(workload.batch, workload.length, placement)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=placement.whole())
    placed = _placed(state, placed_state(workload, placement))
    return _lower(step, placed, _placed(frozen, placement.parameters(frozen)), batch, rate, result=placed)


def _evaluation(workload: Workload, layout: Layout, placement: Placement) -> Traced:
    step = make_evaluation_step(workload.model, workload.tuning, layout.axes)
    rows = _padded(workload.evaluation_batch, layout)
    losses = jax.ShapeDtypeStruct((2, rows), jnp.float32, sharding=placement.whole())
    return _lower(step, *_parameters(workload, placement), _batch(rows, workload.length, placement), result=losses)


def _decoding(workload: Workload, layout: Layout, placement: Placement) -> Traced:
    decoding = workload.decoding
    assert decoding is not None
    decode = make_greedy(
        workload.model, workload.tuning, decoding.new_tokens, 1, 0, decoding.bidirectional_input, layout.axes
    )
    rows = _padded(workload.evaluation_batch, layout)
    prompts = jax.ShapeDtypeStruct((rows, decoding.input_tokens), jnp.int32, sharding=placement.batch())
    lengths = jax.ShapeDtypeStruct((rows,), jnp.int32, sharding=placement.batch())
    written = jax.ShapeDtypeStruct((rows, decoding.new_tokens), jnp.int32, sharding=placement.whole())
    return _lower(decode, *_parameters(workload, placement), prompts, lengths, result=written)


def _lower(jitted: Any, *arguments: Any, result: Tree) -> Traced:
    return Traced(jitted.lower(*arguments), held_bytes(arguments), held_bytes(result))


def _padded(rows: int, layout: Layout) -> int:
    """Rows of a batch that is filled up until the chips can share it, as scoring does."""
    return rows + -rows % layout.batch_parts


def _parameters(workload: Workload, placement: Placement) -> tuple[Tree, Tree]:
    state, frozen = shapes(workload)
    return (
        _placed(state.trainable, placement.parameters(state.trainable)),
        _placed(frozen, placement.parameters(frozen)),
    )


def _batch(rows: int, length: int, placement: Placement) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=placement.batch())
        for name, dtype in BATCH_FIELDS.items()
    }


def _placed(tree: Tree, shardings: Tree) -> Tree:
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, shardings)


def compile_all(traced: Mapping[str, Traced], hbm_bytes: int) -> dict[str, Program]:
    """Compiles programs, two at a time; hbm_bytes: what they have to fit in."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        waiting = {name: pool.submit(_compile, name, program, hbm_bytes) for name, program in traced.items()}
        return {name: future.result() for name, future in waiting.items()}


def _compile(name: str, traced: Traced, hbm_bytes: int) -> Program:
    log.info("%s: compiling", name)
    began = time.perf_counter()
    try:
        compiled = traced.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        seconds = time.perf_counter() - began
        asked = needed_bytes(str(error))
        log.info("%s: does not fit, says the compiler after %.0f s", name, seconds)
        beside = max(0, asked - traced.argument_bytes)
        return Program(False, traced.argument_bytes, beside, traced.output_bytes, asked, None, seconds)
    seconds = time.perf_counter() - began
    log.info("%s: compiled in %.0f s", name, seconds)
    memory = compiled.memory_analysis()
    return Program(
        fits=memory.peak_memory_in_bytes <= hbm_bytes,
        argument_bytes=memory.argument_size_in_bytes,
        temporary_bytes=memory.temp_size_in_bytes,
        output_bytes=memory.output_size_in_bytes,
        peak_bytes=memory.peak_memory_in_bytes,
        collectives=collectives(compiled.as_text()),
        compile_seconds=seconds,
    )


_UNITS = {"K": 2**10, "M": 2**20, "G": GIB, "T": 2**40}
_ASKED = (
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm",
    r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM",
)


def needed_bytes(message: str) -> int:
    """The memory that a program needs, from the compiler's message that there is not so much.

    Raises RuntimeError with the message where it says something else: that would be an error of ours.
    """
    for pattern in _ASKED:
        if "RESOURCE_EXHAUSTED" in message and (found := re.search(pattern, message)):
            return round(float(found.group(1)) * _UNITS[found.group(2)])
    raise RuntimeError(f"the compiler failed: {message}")
