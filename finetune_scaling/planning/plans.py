"""Plans: the memory, collectives and step-time bound of one workload on one slice."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.bounds import StepBound, step_bound, training_work
from finetune_scaling.planning.chips import Slice
from finetune_scaling.planning.compiled import DECODING, EVALUATION, TRAINING, Program, compile_programs
from finetune_scaling.planning.layout import Layout, resident_bytes
from finetune_scaling.planning.memory_estimate import estimate_memory
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a workload on a slice.

    programs: the compiled programs (training, evaluation, decoding), or an estimate of training alone.
    bound: lower bound of the step time.
    """

    slice: Slice
    layout: Layout
    programs: Mapping[str, Program]
    bound: StepBound
    compiled: bool

    @property
    def training(self) -> Program:
        return self.programs[TRAINING]

    @property
    def chip_seconds(self) -> float:
        """Return the least chip-seconds of one train step."""
        return self.slice.chips * self.bound.seconds


def configured_layout(workload: Workload, slice_: Slice, sharding: ShardingConfig, accumulation: int) -> Layout:
    """Return the layout of a config on a slice. Raises ConfigError if chips, model or batch are not divisible."""
    data, fsdp, tensor = sharding.shape(slice_.chips)
    layout = Layout(data, fsdp, tensor, accumulation, workload.model.remat, sharding.axes)
    check_fits(workload.model, sharding, layout.mesh())
    check_batch(workload.batch, accumulation, sharding, layout.mesh())
    return layout


def estimated_plan(workload: Workload, slice_: Slice, layout: Layout) -> Plan:
    """Return a plan without compiling, for any kind of chip."""
    memory = estimate_memory(workload, layout)
    program = Program(
        fits=memory.fits(slice_.chip),
        argument_bytes=memory.resident.total,
        temporary_bytes=memory.temporary,
        output_bytes=memory.resident.trainable + memory.resident.optimizer,
        peak_bytes=memory.peak,
        collectives=None,
        compile_seconds=None,
    )
    return Plan(slice_, layout, {TRAINING: program}, _bound(workload, slice_, layout, program), compiled=False)


def compiled_plan(workload: Workload, slice_: Slice, layout: Layout, training_only: bool = False) -> Plan:
    """Return a plan with compiled programs; training_only omits evaluation and decoding."""
    names = [TRAINING] if training_only else [TRAINING, EVALUATION, *([DECODING] if workload.decoding else [])]
    programs = compile_programs(workload, slice_, layout, names)
    return Plan(slice_, layout, programs, _bound(workload, slice_, layout, programs[TRAINING]), compiled=True)


def _bound(workload: Workload, slice_: Slice, layout: Layout, program: Program) -> StepBound:
    received = None if program.collectives is None else float(program.collectives.link_bytes)
    return step_bound(slice_.chip, training_work(workload, layout, resident_bytes(workload, layout), received))


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON-like data: the train step at the top level, other programs under their names."""
    slice_, layout = plan.slice, plan.layout
    others = {name: _program(program) for name, program in plan.programs.items() if name != TRAINING}
    return {
        "topology": slice_.name,
        "accelerator_type": slice_.accelerator_type or None,
        "chips": slice_.chips,
        "hosts": slice_.hosts,
        "mesh": {"data": layout.data, "fsdp": layout.fsdp, "tensor": layout.tensor},
        "accumulation": layout.accumulation,
        "remat": layout.remat,
        "compiled": plan.compiled,
        **_program(plan.training),
        "hbm_bytes": slice_.chip.hbm_bytes,
        "step_seconds_bound": plan.bound.seconds,
        "bound": {**dataclasses.asdict(plan.bound), "set_by": plan.bound.set_by},
        **others,
    }


def _program(program: Program) -> dict[str, Any]:
    fields = {field.name: getattr(program, field.name) for field in dataclasses.fields(program)}
    traffic = fields.pop("collectives")
    if traffic is None:
        return {**fields, "collectives": None, "unknown_loops": None}
    kinds = {kind: dataclasses.asdict(entry) for kind, entry in traffic.by_kind.items()}
    return {**fields, "collectives": kinds, "unknown_loops": traffic.unknown_loops}
