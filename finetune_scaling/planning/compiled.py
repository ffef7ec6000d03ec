"""Memory and collectives of a run's programs, compiled for a slice from shapes alone.

These are the programs of a run: training.step and decoding.programs build them, ModelSharding shards their arguments.
Decoding is compiled as one program; a run has several, which need no more memory. No array is allocated, so models of
any size can be planned on a small machine.
"""

import dataclasses
import functools
import logging
import multiprocessing
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from finetune_scaling.chips import GIB, Slice
from finetune_scaling.decoding.generation import make_decoder
from finetune_scaling.decoding.programs import Batch, make_unchunked_program
from finetune_scaling.decoding.search import RowInputs
from finetune_scaling.models.model_sharding import ModelSharding
from finetune_scaling.planning.collectives import Collectives, collectives
from finetune_scaling.planning.layout import Layout, batch_fields, bytes_per_device, state_shapes, state_shardings
from finetune_scaling.planning.topology import devices, prepare_environment
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, make_mesh
from finetune_scaling.training.step import make_evaluation_step, make_train_step
from finetune_scaling.trees import Tree, with_shardings

log = logging.getLogger(__name__)

TRAINING, EVALUATION, DECODING = "training", "evaluation", "decoding"


@dataclasses.dataclass(frozen=True)
class Program:
    """Bytes per chip and collectives of one compiled program.

    peak_bytes: the maximum memory in use at any time, which must fit. It may be less than arguments plus temporaries,
      since the compiler counts buffers shared by donated arguments and temporaries twice. If the program does not fit:
      the memory that the compiler requested; then temporaries are this minus the arguments, and collectives is None.
    """

    fits: bool
    argument_bytes: int
    temporary_bytes: int
    output_bytes: int
    peak_bytes: int
    collectives: Collectives | None
    compile_seconds: float | None


@dataclasses.dataclass(frozen=True)
class TracedProgram:
    """A program that is ready to compile, with the bytes per chip of its arguments and results."""

    lowered: Any
    argument_bytes: int
    output_bytes: int


def compile_programs(workload: Workload, slice_: Slice, layout: Layout, programs: Sequence[str]) -> dict[str, Program]:
    """Compile the named programs (TRAINING, EVALUATION, DECODING) for a slice, two at a time.

    Several programs have a process each, since libtpu compiles one program at a time in a process.
    """
    prepare_environment(slice_)  # fails early if libtpu is missing
    log.info("%s, %s: compiling %s", slice_.name, layout.text(), ", ".join(programs))
    compile_ = functools.partial(compile_program, workload, slice_, layout)
    if len(programs) == 1:
        return _logged(programs, map(compile_, programs))
    with ProcessPoolExecutor(max_workers=2, mp_context=multiprocessing.get_context("spawn")) as pool:
        return _logged(programs, pool.map(compile_, programs))


def _logged(names: Sequence[str], programs: Iterable[Program]) -> dict[str, Program]:
    """Return the programs by name, and log each when it is compiled."""
    found: dict[str, Program] = {}
    for name, program in zip(names, programs, strict=True):
        outcome = "does not fit" if program.collectives is None else "compiled"
        log.info("%s: %s after %.0f s", name, outcome, program.compile_seconds)
        found[name] = program
    return found


def compile_program(workload: Workload, slice_: Slice, layout: Layout, name: str) -> Program:
    """Trace and compile one program for a slice in this process."""
    prepare_environment(slice_)
    mesh = make_mesh(ShardingConfig(layout.fsdp, layout.tensor, layout.axes), devices(slice_))
    return _compile(trace(workload, layout, mesh, name), slice_.chip.hbm_bytes)


def trace(workload: Workload, layout: Layout, mesh: Mesh, name: str) -> TracedProgram:
    """Trace one of a run's programs for a mesh."""
    model = dataclasses.replace(workload.model, remat=layout.remat)
    workload = dataclasses.replace(workload, model=model)
    makers: Mapping[str, Callable[..., TracedProgram]] = {
        TRAINING: _training,
        EVALUATION: _evaluation,
        DECODING: _decoding,
    }
    state_shapes(workload)  # cached before the mesh is in context, since its devices cannot run anything
    with jax.set_mesh(mesh):
        return makers[name](workload, layout, ModelSharding(model, mesh, layout.axes))


def _training(workload: Workload, layout: Layout, sharding: ModelSharding) -> TracedProgram:
    state, frozen = state_shapes(workload)
    step = make_train_step(workload.model, workload.tuning, workload.optimizer, layout.accumulation, layout.axes)
    batch = _batch(workload, workload.batch, sharding)
    rate = jax.ShapeDtypeStruct((), jnp.float32, sharding=sharding.replicated())
    sharded_state = with_shardings(state, state_shardings(workload, sharding))
    arguments = [sharded_state, with_shardings(frozen, sharding.parameters(frozen)), batch, rate]
    if workload.tuning.uses_dropout:
        arguments.append(jax.ShapeDtypeStruct((2,), jnp.uint32, sharding=sharding.replicated()))
    return _lower(step, *arguments, result=sharded_state)


def _evaluation(workload: Workload, layout: Layout, sharding: ModelSharding) -> TracedProgram:
    step = make_evaluation_step(workload.model, workload.tuning, layout.axes)
    rows = _padded_rows(workload.evaluation_batch, layout)
    losses = jax.ShapeDtypeStruct((2, rows), jnp.float32, sharding=sharding.replicated())
    return _lower(step, *_parameters(workload, sharding), _batch(workload, rows, sharding), result=losses)


def _decoding(workload: Workload, layout: Layout, sharding: ModelSharding) -> TracedProgram:
    decoding = workload.decoding
    assert decoding is not None
    decoder = make_decoder(
        workload.model,
        workload.tuning,
        decoding.settings,
        longest=decoding.new_tokens,
        end_ids=(1,),
        pad_id=0,
        bidirectional_input=decoding.bidirectional_input,
        axes=layout.axes,
    )
    rows = _padded_rows(workload.evaluation_batch, layout)

    def integers(*dimensions: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((rows, *dimensions), jnp.int32, sharding=sharding.batch())

    batch = Batch(integers(decoding.input_tokens), integers(), RowInputs(integers(), integers()))
    shape = (rows, decoder.search.width, decoding.new_tokens)
    tokens = jax.ShapeDtypeStruct(shape, jnp.int32, sharding=sharding.replicated())
    return _lower(make_unchunked_program(decoder), *_parameters(workload, sharding), batch, result=tokens)


def _lower(jitted: Any, *arguments: Any, result: Tree) -> TracedProgram:
    return TracedProgram(jitted.lower(*arguments), bytes_per_device(arguments), bytes_per_device(result))


def _padded_rows(rows: int, layout: Layout) -> int:
    """Return the rows of a batch padded to a multiple of its shards, as in evaluation."""
    return rows + -rows % layout.batch_shards


def _parameters(workload: Workload, sharding: ModelSharding) -> tuple[Tree, Tree]:
    state, frozen = state_shapes(workload)
    return (
        with_shardings(state.trainable, sharding.parameters(state.trainable)),
        with_shardings(frozen, sharding.parameters(frozen)),
    )


def _batch(workload: Workload, rows: int, sharding: ModelSharding) -> dict[str, jax.ShapeDtypeStruct]:
    return {
        name: jax.ShapeDtypeStruct((rows, workload.length), dtype, sharding=sharding.batch())
        for name, dtype in batch_fields(workload).items()
    }


def _compile(traced: TracedProgram, hbm_bytes: int) -> Program:
    began = time.perf_counter()
    try:
        compiled = traced.lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        requested = requested_bytes(str(error))
        temporary = max(0, requested - traced.argument_bytes)
        seconds = time.perf_counter() - began
        return Program(False, traced.argument_bytes, temporary, traced.output_bytes, requested, None, seconds)
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
_REQUESTED = (
    r"Used ([\d.]+)([KMGT]) of [\d.]+[KMGT] hbm",
    r"HLO temporaries \(([\d.]+)([KMGT])\) exceeds available HBM",
)


def requested_bytes(message: str) -> int:
    """Return the memory that the compiler requested, from its message that it is not available.

    Raises RuntimeError for any other message.
    """
    for pattern in _REQUESTED:
        if "RESOURCE_EXHAUSTED" in message and (found := re.search(pattern, message)):
            return round(float(found.group(1)) * _UNITS[found.group(2)])
    raise RuntimeError(f"the compiler failed: {message}")
