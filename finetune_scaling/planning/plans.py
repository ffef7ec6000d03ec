"""Plans: the memory, collectives and step-time bound of one workload on one slice."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from finetune_scaling.chips import Slice
from finetune_scaling.models.model_sharding import check_fits
from finetune_scaling.planning.bounds import StepBound, step_bound
from finetune_scaling.planning.compiled import DECODING, EVALUATION, TRAINING, Program, compile_programs
from finetune_scaling.planning.estimate import EstimatedStep
from finetune_scaling.planning.layout import Layout, resident_bytes
from finetune_scaling.planning.workload import Workload
from finetune_scaling.sharding.mesh import ShardingConfig, check_batch


@dataclasses.dataclass(frozen=True)
class Plan:
    """Plan of a workload on a slice.

    programs: the compiled programs (training, evaluation, decoding), or an estimate of training alone.
    bound: lower bound of the step time.
    refused: plans of a search that were compiled before this one and did not fit.
    """

    workload: Workload
    slice: Slice
    layout: Layout
    programs: Mapping[str, Program]
    bound: StepBound
    compiled: bool
    refused: tuple["Plan", ...] = ()

    @property
    def training(self) -> Program:
        """Return the program of the train step."""
        return self.programs[TRAINING]

    @property
    def loading_bytes(self) -> dict[str, int]:
        """Return the bytes per chip at the start of a run and after resuming it.

        Both are what a run keeps between steps, without a batch: arrays are cast on the host and read once, a resumed
        run's into the place of those at the start.
        """
        resident = resident_bytes(self.workload, self.layout)
        return dict.fromkeys(("start", "resume"), resident.total - resident.batch)

    @property
    def chip_seconds(self) -> float:
        """Return the lower bound of the chip-seconds of one train step."""
        return self.slice.chips * self.bound.seconds


def configured_layout(workload: Workload, slice_: Slice, sharding: ShardingConfig, accumulation: int) -> Layout:
    """Return the layout of a config on a slice. Raises ConfigError if chips, model or batch are not divisible."""
    data, fsdp, tensor = sharding.shape(slice_.chips)
    layout = Layout(data, fsdp, tensor, accumulation, workload.model.remat, sharding.axes)
    check_fits(workload.model, sharding, layout.mesh())
    check_batch(workload.batch, accumulation, sharding, layout.mesh())
    return layout


def estimated_plan(step: EstimatedStep) -> Plan:
    """Return a plan without compiling, for any kind of chip."""
    program = Program(
        fits=step.fits,
        argument_bytes=step.resident.total,
        temporary_bytes=step.temporary,
        output_bytes=step.resident.trainable + step.resident.optimizer,
        peak_bytes=step.peak,
        collectives=None,
        compile_seconds=None,
    )
    return Plan(step.workload, step.slice, step.layout, {TRAINING: program}, step.bound, compiled=False)


def compiled_plan(step: EstimatedStep, training_only: bool = False) -> Plan:
    """Return a plan with compiled programs; training_only omits evaluation and decoding."""
    workload, slice_, layout = step.workload, step.slice, step.layout
    names = [TRAINING] if training_only else [TRAINING, EVALUATION, *([DECODING] if workload.decoding else [])]
    programs = compile_programs(workload, slice_, layout, names)
    traffic = programs[TRAINING].collectives
    received = None if traffic is None else traffic.link_bytes
    bound = step_bound(workload, slice_.chip, layout, step.resident, received)
    return Plan(workload, slice_, layout, programs, bound, compiled=True)


def as_json(plan: Plan) -> dict[str, Any]:
    """Return a plan as JSON-like data: the train step at the top level, other programs under their names."""
    slice_, layout = plan.slice, plan.layout
    return {
        "topology": slice_.name,
        "accelerator_type": slice_.accelerator_type or None,
        "chips": slice_.chips,
        "hosts": slice_.hosts,
        "mesh": {"data": layout.data, "fsdp": layout.fsdp, "tensor": layout.tensor},
        "accumulation": layout.accumulation,
        "remat": layout.remat,
        "attention": plan.workload.model.attention,
        "compiled": plan.compiled,
        **_program(plan.training),
        "hbm_bytes": slice_.chip.hbm_bytes,
        "step_seconds_bound": plan.bound.seconds,
        "bound": {**dataclasses.asdict(plan.bound), "set_by": plan.bound.set_by},
        **{name: _program(program) for name, program in plan.programs.items() if name != TRAINING},
        **{
            name: {"fits": size <= slice_.chip.hbm_bytes, "peak_bytes": size}
            for name, size in plan.loading_bytes.items()
        },
    }


def _program(program: Program) -> dict[str, Any]:
    fields = dataclasses.asdict(program)
    traffic = fields.pop("collectives") or {"by_kind": None, "unknown_loops": None}
    return {**fields, "collectives": traffic["by_kind"], "unknown_loops": traffic["unknown_loops"]}
