"""Collective operations of a compiled program, read from its optimized HLO text.

Trip counts of loops are XLA's known_trip_count (CPUs, GPUs). On TPUs they are computed from the loop's condition, which
compares a counter with a constant, and from the counter's initial value and step. For a loop with a further condition
(decoding stops when all rows have ended) this is the maximum. A loop whose trip count cannot be read counts once, and
is counted in `unknown_loops`.
"""

import collections
import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Traffic of one kind of collective, per chip and step.

    instructions: number in the text.
    count: number of executions.
    bytes: size of the unsharded arrays, summed over executions.
    link_bytes: the minimum number that a chip receives. In a group of n chips: (n-1)/n of the bytes for all-gather,
      reduce-scatter and all-to-all, twice that for all-reduce, all bytes for collective-permute.
    """

    instructions: int = 0
    count: int = 0
    bytes: int = 0
    link_bytes: int = 0

    def __add__(self, other: "Traffic") -> "Traffic":
        pairs = zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)
        return Traffic(*(a + b for a, b in pairs))


@dataclasses.dataclass(frozen=True)
class Collectives:
    """Traffic of a program by kind of collective; unknown_loops: number of loops that were counted once."""

    by_kind: Mapping[str, Traffic]
    unknown_loops: int = 0

    @property
    def link_bytes(self) -> int:
        """Return the minimum number of bytes that a chip receives in total."""
        return sum(traffic.link_bytes for traffic in self.by_kind.values())


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: %name = shape opcode(operands), attributes. A constant's operand is its value."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str

    def called(self) -> list[tuple[str, str]]:
        """Return (role, computation) of the computations that it calls; the roles of a loop are condition and body."""
        return [(role, n) for role, names in _CALLED.findall(self.attributes) for n in _REFERENCE.findall(names)]


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation of HLO; root: the name of its result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class HloModule:
    """A parsed program.

    entry: the name of the entry computation.
    partitions: the number of chips.
    fusions: the only caller of each fused computation: its computation and the fusion.
    """

    computations: Mapping[str, Computation]
    entry: str
    partitions: int
    fusions: Mapping[str, tuple[Computation, Instruction]]


_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \([^\n]*\{\n(.*?)^\}", re.MULTILINE | re.DOTALL)
_INSTRUCTION = re.compile(
    r"^\s+(ROOT )?%?([\w.\-]+) = (\S.*?) ([a-z][a-z0-9\-]*)\((.*?)\)(|, .*)$",  # name, shape, opcode, operands, rest
    re.MULTILINE,
)
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|called_computations|true_computation|"
    r"false_computation)=(\{[^}]*\}|%[\w.\-]+)"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_REFERENCE = re.compile(r"%([\w.\-]+)")


def collectives(text: str) -> Collectives:
    """Return the collectives of a compiled program (`compiled.as_text()`)."""
    module = parse(text)
    executions, unknown = _executions(module)
    found: dict[tuple[str, str], tuple[str, Traffic]] = {}
    for name, times in executions.items():
        computation = module.computations[name]
        for instruction in computation.instructions.values():
            kind = _kind(computation, instruction)
            if kind is None or not times:
                continue
            traffic = _traffic(kind, instruction, times, module.partitions)
            key = _chain(instruction) or (name, instruction.name)
            if key not in found or found[key][1].count < traffic.count:
                found[key] = kind, traffic
    totals: dict[str, Traffic] = {}
    for kind in KINDS:
        if of_kind := [traffic for other, traffic in found.values() if other == kind]:
            totals[kind] = sum(of_kind, Traffic())
    return Collectives(totals, unknown)


def parse(text: str) -> HloModule:
    """Return the computations of an HLO module. Raises ValueError if the text has no entry computation."""
    computations: dict[str, Computation] = {}
    entry = ""
    for is_entry, name, body in _COMPUTATION.findall(text):
        lines = _INSTRUCTION.findall(body)
        instructions = {
            line: Instruction(line, shape, opcode, tuple(_REFERENCE.findall(operands)) or (operands,), attributes)
            for _, line, shape, opcode, operands, attributes in lines
        }
        computations[name] = Computation(name, instructions, next(line for is_root, line, *_ in lines if is_root))
        entry = name if is_entry else entry
    if not entry:
        raise ValueError("not the text of a compiled program: it has no ENTRY")
    fusions = {
        called: (computation, instruction)
        for computation in computations.values()
        for instruction in computation.instructions.values()
        if instruction.opcode == "fusion"
        for _, called in instruction.called()
    }
    partitions = re.search(r"num_partitions=(\d+)", text)
    return HloModule(computations, entry, int(partitions[1]) if partitions else 1, fusions)


def _kind(computation: Computation, instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"  # the form on TPUs: an all-reduce fused with a slice
    return opcode if opcode in KINDS else None


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """Return the id of a collective that a TPU splits over several fusions, which all repeat the instruction."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain[1], channel[1]) if chain and channel else None


def _traffic(kind: str, instruction: Instruction, times: int, partitions: int) -> Traffic:
    members = _group_size(instruction.attributes, partitions)
    size = _result_bytes(instruction)
    if instruction.opcode.startswith("reduce-scatter"):  # its operand is the unsharded array
        size *= members
    share = {"all-reduce": 2 * (members - 1) / members, "collective-permute": 1.0}.get(kind, (members - 1) / members)
    return Traffic(1, times, times * size, round(times * size * share))


def _result_bytes(instruction: Instruction) -> int:
    """Return the bytes of the result; the shape of a -start instruction lists operands, then results."""
    arrays = array_bytes(instruction.shape)
    if instruction.opcode.endswith("-start") and instruction.opcode != "all-reduce-start":
        count = len(instruction.operands)
        return sum(arrays[count : 2 * count])
    return sum(arrays)


def array_bytes(shape: str) -> list[int]:
    """Return the bytes of every array of a shape: "(f32[2,3]{1,0}, pred[])" -> [24, 1]."""
    found = _ARRAY.findall(shape)
    return [math.ceil(_bits(kind) * math.prod(int(n) for n in sizes.split(",") if n) / 8) for kind, sizes in found]


def _bits(kind: str) -> int:
    return 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])


def _group_size(attributes: str, partitions: int) -> int:
    """Return the number of chips in a replica group, in any of the notations of HLO."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found[1])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", found[1])}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found[2])
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return found[1].count(",") + 1
    return partitions


def _executions(module: HloModule) -> tuple[dict[str, int], int]:
    """Return the number of executions of each computation, and the number of loops with unknown trip count."""
    times: dict[str, int] = collections.defaultdict(int)
    unknown = 0

    def visit(name: str, count: int) -> None:
        nonlocal unknown
        times[name] += count
        for instruction in module.computations[name].instructions.values():
            trips = trip_count(module, module.computations[name], instruction) if instruction.opcode == "while" else 1
            unknown += trips is None
            for role, called in instruction.called():
                visit(called, count * trips if trips is not None and role == "body" else count)

    visit(module.entry, 1)
    return times, unknown


def trip_count(module: HloModule, computation: Computation, loop: Instruction) -> int | None:
    """Return the maximal trip count of a loop; None if the text does not contain it."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(found[1])
    roles = dict(loop.called())
    condition, body = module.computations[roles["condition"]], module.computations[roles["body"]]
    counts = [
        math.ceil((limit - first) / step)
        for index, limit in _limits(module, condition)
        if (first := _initial_value(module, computation, loop, index)) is not None
        and (step := _step(module, body, index)) is not None
    ]
    return max(0, min(counts)) if counts else None


def _limits(module: HloModule, computation: Computation) -> Iterator[tuple[int, int]]:
    """Yield (index in the loop's tuple, constant) for every `value < constant` in a condition and in its fusions."""
    for instruction in computation.instructions.values():
        if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
            left, right = (_definition(module, computation, name)[1] for name in instruction.operands)
            index, constant = _tuple_index(left), _constant(right)
            if index is not None and constant is not None:
                yield index, constant
        for _, called in instruction.called():
            yield from _limits(module, module.computations[called])


def _initial_value(module: HloModule, computation: Computation, loop: Instruction, index: int) -> int | None:
    """Return the counter's value before the loop: a constant in the loop's initial tuple."""
    where, start = _definition(module, computation, loop.operands[0])
    return _constant(_definition(module, where, start.operands[index])[1]) if start.opcode == "tuple" else None


def _step(module: HloModule, body: Computation, index: int) -> int | None:
    """Return the counter's step: the body returns add(counter, constant) at the counter's index."""
    where, result = _definition(module, body, body.root)
    if result.opcode != "tuple":
        return None
    where, raised = _definition(module, where, result.operands[index])
    terms = [_definition(module, where, name)[1] for name in raised.operands] if raised.opcode == "add" else []
    constants = [value for term in terms if (value := _constant(term)) is not None]
    return constants[0] if index in map(_tuple_index, terms) and constants and constants[0] > 0 else None


def _definition(module: HloModule, computation: Computation, name: str) -> tuple[Computation, Instruction]:
    """Return the instruction that defines a value, and its computation: through copies, into and out of fusions."""
    instruction = computation.instructions[name]
    if instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        return _definition(module, computation, instruction.operands[0])
    if instruction.opcode == "fusion":
        fused = module.computations[dict(instruction.called())["calls"]]
        return _definition(module, fused, fused.root)
    if instruction.opcode == "parameter" and computation.name in module.fusions:
        outer, fusion = module.fusions[computation.name]
        return _definition(module, outer, fusion.operands[int(instruction.operands[0])])
    return computation, instruction


def _tuple_index(instruction: Instruction) -> int | None:
    found = re.search(r"index=(\d+)", instruction.attributes)
    return int(found[1]) if found and instruction.opcode == "get-tuple-element" else None


def _constant(instruction: Instruction) -> int | None:
    (value, *_) = instruction.operands
    return int(value) if instruction.opcode == "constant" and re.fullmatch(r"-?\d+", value) else None
