"""The real programs of a run, compiled for a slice from shapes alone: what the compiler says that they need.

The programs are those that training and scoring run: training.step and decoding.programs build them, ModelSharding
divides their arguments. Decoding is compiled as one program, where a run has several that need no more. No array is
ever made, so a model of any size can be planned on a small machine.
"""

import dataclasses
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from finetune_scaling.decoding.generation import make_writer
from finetune_scaling.decoding.programs import Batch, make_whole
from finetune_scaling.decoding.search import Row
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.planning.chips import GIB, Slice
from finetune_scaling.planning.collectives import Collectives, collectives
from finetune_scaling.planning.layout import BATCH_FIELDS, Layout, held_bytes, placed_state, shapes
from finetune_scaling.planning.topology import devices, prepare_environment
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.step import make_evaluation_step, make_train_step
from finetune_scaling.trees import Tree

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


def compile_programs(workload: Workload, slice_: Slice, layout: Layout, programs: Sequence[str]) -> dict[str, Program]:
    """Compiles the named programs (TRAINING, EVALUATION, DECODING) for a slice.

    Two at a time, each in a process of its own: libtpu compiles one program at a time in a process.
    """
    log.info("%s, %s: compiling %s", slice_.name, layout.text(), ", ".join(programs))
    found: dict[str, Program] = {}
    for name, program in _each(workload, slice_, layout, programs):
        outcome = "does not fit, says the compiler" if program.collectives is None else "compiled"
        log.info("%s: %s after %.0f s", name, outcome, program.compile_seconds)
        found[name] = program
    return {name: found[name] for name in programs}


def _each(workload: Workload, slice_: Slice, layout: Layout, programs: Sequence[str]) -> Iterator[tuple[str, Program]]:
    """The programs, as they are compiled."""
    if len(programs) == 1:
        yield programs[0], compile_program(workload, slice_, layout, programs[0])
        return
    with ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting = {pool.submit(compile_program, workload, slice_, layout, name): name for name in programs}
        for future in as_completed(waiting):
            yield waiting[future], future.result()


def compile_program(workload: Workload, slice_: Slice, layout: Layout, name: str) -> Program:
    """Traces and compiles one program for a slice, in this process."""
    prepare_environment(slice_)
    mesh = make_mesh(ShardingConfig(layout.fsdp, layout.tensor, layout.axes), devices(slice_))
    return _compiled(trace(workload, layout, mesh, name), slice_.chip.hbm_bytes)


def trace(workload: Workload, layout: Layout, mesh: Mesh, name: str) -> Traced:
    """One of a run's programs, traced for a mesh."""
    model = dataclasses.replace(workload.model, remat=layout.remat)
    workload = dataclasses.replace(workload, model=model)
    makers: Mapping[str, Callable[..., Traced]] = {TRAINING: _training, EVALUATION: _evaluation, DECODING: _decoding}
    shapes(workload)  # before the mesh is in context, whose devices can run nothing
    with jax.set_mesh(mesh):
        return makers[name](workload, layout, ModelSharding(model, mesh, layout.axes))


def _training(workload: Workload, layout: Layout, sharding: ModelSharding) -> Traced:
    state, frozen = shapes(workload)
    step = make_train_step(workload.model, workload.tuning, workload.optimizer, layout.accumulation, layout.axes)
    batch = _batch(workload.batch, workload.length, sharding)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated())
    placed = _placed(state, placed_state(workload, sharding))
    return _lower(step, placed, _placed(frozen, sharding.parameters(frozen)), batch, rate, result=placed)


def _evaluation(workload: Workload, layout: Layout, sharding: ModelSharding) -> Traced:
    step = make_evaluation_step(workload.model, workload.tuning, layout.axes)
    rows = _padded(workload.evaluation_batch, layout)
    losses = jax.ShapeDtypeStruct((2, rows), jnp.float32, sharding=sharding.replicated())
    return _lower(step, *_parameters(workload, sharding), _batch(rows, workload.length, sharding), result=losses)


def _decoding(workload: Workload, layout: Layout, sharding: ModelSharding) -> Traced:
    decoding = workload.decoding
    assert decoding is not None
    writer = make_writer(
        workload.model,
        workload.tuning,
        decoding.settings,
        longest=decoding.new_tokens,
        eos_id=1,
        pad_id=0,
        bidirectional_input=decoding.bidirectional_input,
        axes=layout.axes,
    )
    rows = _padded(workload.evaluation_batch, layout)

    def of_rows(*further: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *further), jnp.int32, sharding=sharding.batch())

    batch = Batch(of_rows(decoding.input_tokens), of_rows(), Row(of_rows(), of_rows()))
    texts = (rows, writer.search.width, decoding.new_tokens)
    written = jax.ShapeDtypeStruct(texts, jnp.int32, sharding=sharding.replicated())
    return _lower(make_whole(writer), *_parameters(workload, sharding), batch, result=written)


def _lower(jitted: Any, *arguments: Any, result: Tree) -> Traced:
    return Traced(jitted.lower(*arguments), held_bytes(arguments), held_bytes(result))


def _padded(rows: int, layout: Layout) -> int:
    """Rows of a batch that is filled up until the chips can share it, as scoring does."""
    return rows + -rows % layout.batch_parts


def _parameters(workload: Workload, sharding: ModelSharding) -> tuple[Tree, Tree]:
    state, frozen = shapes(workload)
    return (
        _placed(state.trainable, sharding.parameters(state.trainable)),
        _placed(frozen, sharding.parameters(frozen)),
    )


def _batch(rows: int, length: int, sharding: ModelSharding) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((rows, length), dtype, sharding=sharding.batch())
        for name, dtype in BATCH_FIELDS.items()
    }


def _placed(tree: Tree, shardings: Tree) -> Tree:
    return jax.tree.map(lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at), tree, shardings)


def _compiled(traced: Traced, hbm_bytes: int) -> Program:
    began = time.perf_counter()
    try:
        compiled = traced.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        asked = needed_bytes(str(error))
        beside = max(0, asked - traced.argument_bytes)
        seconds = time.perf_counter() - began
        return Program(False, traced.argument_bytes, beside, traced.output_bytes, asked, None, seconds)
    seconds = time.perf_counter() - began
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
