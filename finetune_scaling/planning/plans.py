"""Plans: all that is said of one workload on one slice, as data, of which the command makes its text and its JSON."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.bounds import Bound, bound, training_work
from finetune_scaling.planning.chips import Slice
from finetune_scaling.planning.compiled import DECODING, EVALUATION, TRAINING, Program, compile_programs
from finetune_scaling.planning.estimate import memory
from finetune_scaling.planning.layout import Layout, held
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch


@dataclasses.dataclass(frozen=True)
class Plan:
    """A workload laid out on a slice.

    programs: training, evaluation and decoding, as far as they were compiled; without a compiler, training alone, as it
    is estimated. bound: of the train step.
    """

    slice: Slice
    layout: Layout
    programs: Mapping[str, Program]
    bound: Bound
    compiled: bool

    @property
    def training(self) -> Program:
        return self.programs[TRAINING]

    @property
    def chip_seconds(self) -> float:
        """Of one train step, at least."""
        return self.slice.chips * self.bound.seconds


def layout_of(workload: Workload, slice_: Slice, sharding: ShardingConfig, accumulation: int) -> Layout:
    """The layout that a config asks for on a slice; ConfigError where chips, model or batch do not divide."""
    data, fsdp, tensor = sharding.shape(slice_.chips)
    layout = Layout(data, fsdp, tensor, accumulation, workload.model.remat, sharding.axes)
    check_fits(workload.model, sharding, layout.mesh())
    check_batch(workload.batch, accumulation, sharding, layout.mesh())
    return layout


def estimated_plan(workload: Workload, slice_: Slice, layout: Layout) -> Plan:
    """A plan by the analytic part alone, for any kind of chip."""
    needs = memory(workload, layout)
    program = Program(
        fits=needs.fits(slice_.chip),
        argument_bytes=needs.holds.total,
        temporary_bytes=needs.temporary,
        output_bytes=needs.holds.trainable + needs.holds.optimizer,
        peak_bytes=needs.peak,
        collectives=None,
        compile_seconds=None,
    )
    return Plan(slice_, layout, {TRAINING: program}, _bound(workload, slice_, layout, program), compiled=False)


def compiled_plan(workload: Workload, slice_: Slice, layout: Layout, training_only: bool = False) -> Plan:
    """A plan whose programs were compiled for the slice; training_only leaves out those that score."""
    names = [TRAINING] if training_only else [TRAINING, EVALUATION, *([DECODING] if workload.decoding else [])]
    programs = compile_programs(workload, slice_, layout, names)
    return Plan(slice_, layout, programs, _bound(workload, slice_, layout, programs[TRAINING]), compiled=True)


def _bound(workload: Workload, slice_: Slice, layout: Layout, program: Program) -> Bound:
    counted = None if program.collectives is None else float(program.collectives.link_bytes)
    return bound(slice_.chip, training_work(workload, layout, held(workload, layout), counted))


def as_json(plan: Plan) -> dict[str, Any]:
    """The plan as plain data: the train step at the top level, other programs below their names."""
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
