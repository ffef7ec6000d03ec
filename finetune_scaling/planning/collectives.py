"""Collective operations of a compiled program, read from its optimized HLO text.

Trip counts of loops are XLA's known_trip_count (CPUs, GPUs). On TPUs they are computed from the loop's condition, which
compares a counter with a constant, and from the counter's initial value and step. For a loop with a further condition
(decoding stops when all rows have ended) this is the maximum. A loop whose trip count cannot be read counts once, and
is counted in `unknown_loops`.
"""

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
    link_bytes: the least that a chip receives. In a group of n chips: (n-1)/n of the bytes for all-gather,
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
        """Return the least bytes that a chip receives in total."""
        return sum(traffic.link_bytes for traffic in self.by_kind.values())


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of HLO: %name = shape opcode(operands), attributes."""

    name: str
    shape: str
    opcode: str
    operands: tuple[str, ...]
    attributes: str


@dataclasses.dataclass(frozen=True)
class Computation:
    """A computation of HLO; root: the name of its result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program. entry: the name of the entry computation; partitions: the number of chips."""

    computations: Mapping[str, Computation]
    entry: str
    partitions: int


_HEADER = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
_NAME = re.compile(r"^\s+(ROOT )?%?([\w.\-]+) = ")
_CALLED = re.compile(
    r"\b(calls|to_apply|body|condition|branch_computations|called_computations|true_computation|"
    r"false_computation)=(\{[^}]*\}|%?[\w.\-]+)"
)
_ARRAY = re.compile(r"\b(pred|[a-z]+\d+(?:e\d+m\d+\w*)?)\[([\d,]*)\]")
_REFERENCE = re.compile(r"%([\w.\-]+)")


def collectives(text: str) -> Collectives:
    """Return the collectives of a compiled program (`compiled.as_text()`)."""
    module = parse(text)
    executions, unknown = _executions(module)
    totals: dict[str, Traffic] = {}
    chains: dict[tuple[str, str], tuple[str, Traffic]] = {}
    for computation in module.computations.values():
        times = executions.get(computation.name, 0)
        for instruction in computation.instructions.values():
            kind = _kind(computation, instruction)
            if kind is None or not times:
                continue
            traffic = _traffic(kind, computation, instruction, times, module.partitions)
            chain = _chain(instruction)
            if chain is None:
                totals[kind] = totals.get(kind, Traffic()) + traffic
            elif chain not in chains or chains[chain][1].count < traffic.count:
                chains[chain] = (kind, traffic)
    for kind, traffic in chains.values():
        totals[kind] = totals.get(kind, Traffic()) + traffic
    return Collectives({kind: totals[kind] for kind in KINDS if kind in totals}, unknown)


def parse(text: str) -> Module:
    """Return the computations of an HLO module. Raises ValueError if the text has no entry computation."""
    computations: dict[str, Computation] = {}
    entry, name, root = "", "", ""
    lines: dict[str, Instruction] = {}
    for line in text.splitlines():
        if header := _HEADER.match(line):
            name, lines, root = header.group(2), {}, ""
            entry = name if header.group(1) else entry
        elif line.startswith("}"):
            computations[name] = Computation(name, lines, root)
        elif (named := _NAME.match(line)) and name:
            instruction = _instruction(named.group(2), line[named.end() :])
            lines[instruction.name] = instruction
            root = instruction.name if named.group(1) else root
    if entry not in computations:
        raise ValueError("not the text of a compiled program: it has no ENTRY")
    found = re.search(r"num_partitions=(\d+)", text)
    return Module(computations, entry, int(found.group(1)) if found else 1)


def _instruction(name: str, rest: str) -> Instruction:
    shape, rest = _split_shape(rest)
    opcode, _, rest = rest.partition("(")
    operands, attributes = _split_parenthesis(rest)
    return Instruction(name, shape, opcode, tuple(_REFERENCE.findall(operands)) or (operands,), attributes)


def _split_shape(text: str) -> tuple[str, str]:
    """Return a shape (an array, or a tuple in parentheses) and the rest of the text."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inside, rest = _split_parenthesis(text[1:])
    return f"({inside})", rest.lstrip()


def _split_parenthesis(text: str) -> tuple[str, str]:
    """Return the text before and after the parenthesis that closes an open one."""
    depth = 1
    for index, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:index], text[index + 1 :]
    return text, ""


def _kind(computation: Computation, instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"  # the form on TPUs: an all-reduce fused with a slice
    return opcode if opcode in KINDS else None


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """Return the id of a collective that a TPU splits over several fusions, which all repeat the instruction."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain.group(1), channel.group(1)) if chain and channel else None


def _traffic(kind: str, computation: Computation, instruction: Instruction, times: int, partitions: int) -> Traffic:
    members = _group_size(instruction.attributes, partitions)
    size = _unsharded_bytes(kind, computation, instruction, members)
    share = {"all-reduce": 2 * (members - 1) / members, "collective-permute": 1.0}.get(kind, (members - 1) / members)
    return Traffic(1, times, times * size, round(times * size * share))


def _unsharded_bytes(kind: str, computation: Computation, instruction: Instruction, members: int) -> int:
    """Return the bytes of the unsharded array: the result of an all-gather, the operand of a reduce-scatter."""
    arrays = array_bytes(instruction.shape)
    if kind == "reduce-scatter":
        scattered = instruction.opcode.startswith("reduce-scatter")
        return _result_bytes(instruction, arrays) * members if scattered else sum(arrays)
    return _result_bytes(instruction, arrays)


def _result_bytes(instruction: Instruction, arrays: list[int]) -> int:
    """Return the bytes of the result; the shape of a -start instruction lists operands, then results."""
    if not instruction.opcode.endswith("-start") or not instruction.shape.startswith("("):
        return sum(arrays)
    if instruction.opcode == "all-reduce-start":  # its shape has no operands
        return sum(arrays)
    count = len(instruction.operands)
    return sum(arrays[count : 2 * count])


def array_bytes(shape: str) -> list[int]:
    """Return the bytes of every array of a shape: "(f32[2,3]{1,0}, pred[])" -> [24, 1]."""
    found = _ARRAY.findall(shape)
    return [math.ceil(_bits(kind) * math.prod(int(n) for n in sizes.split(",") if n) / 8) for kind, sizes in found]


def _bits(kind: str) -> int:
    return 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])


def _group_size(attributes: str, partitions: int) -> int:
    """Return the number of chips in a replica group, in any of the notations of HLO."""
    if found := re.search(r"replica_groups=\[\d+,(\d+)\]<=", attributes):
        return int(found.group(1))
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\] \{([^}]*)\}", attributes):
        sizes = {axis: int(size) for axis, size in re.findall(r"'([^']+)'=(\d+)", found.group(1))}
        axes = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", found.group(2))
        return math.prod(int(part) if part else sizes[axis] for axis, part in axes)
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", attributes):
        return found.group(1).count(",") + 1
    return partitions


def _executions(module: Module) -> tuple[dict[str, int], int]:
    """Return the number of executions of each computation, and the number of loops with unknown trip count."""
    times: dict[str, int] = {}
    unknown = 0

    def visit(name: str, count: int) -> None:
        nonlocal unknown
        times[name] = times.get(name, 0) + count
        for instruction in module.computations[name].instructions.values():
            trips: int | None = 1
            if instruction.opcode == "while":
                trips = trip_count(module, module.computations[name], instruction)
                unknown += trips is None
            for role, called in _called(instruction):
                if called in module.computations:
                    visit(called, count * (trips if trips is not None and role == "body" else 1))

    visit(module.entry, 1)
    return times, unknown


def _called(instruction: Instruction) -> Iterator[tuple[str, str]]:
    for role, names in _CALLED.findall(instruction.attributes):
        for name in names.strip("{}").split(","):
            yield role, name.strip().removeprefix("%")


def trip_count(module: Module, computation: Computation, loop: Instruction) -> int | None:
    """Return the maximal trip count of a loop; None if the text does not contain it."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(found.group(1))
    roles = dict(_called(loop))
    condition, body = module.computations[roles["condition"]], module.computations[roles["body"]]
    counts = [
        math.ceil((limit - first) / step)
        for index, limit in _limits(module, condition)
        if (first := _initial_value(computation, loop, index)) is not None
        and (step := _step(module, body, index)) is not None
    ]
    return max(0, min(counts)) if counts else None


def _limits(module: Module, condition: Computation) -> Iterator[tuple[int, int]]:
    """Yield (index in the loop's tuple, constant) for every `value < constant` in the condition."""
    for instruction in condition.instructions.values():
        if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
            left, right = instruction.operands
            yield from _limit(condition, left, right)
        for _, called in _called(instruction):
            inner = module.computations.get(called)
            if inner is not None:
                yield from _fused_limits(condition, instruction, inner)


def _fused_limits(condition: Computation, fusion: Instruction, inner: Computation) -> Iterator[tuple[int, int]]:
    """Yield the same pairs for comparisons inside a fusion, whose parameters are the fusion's operands."""
    for instruction in inner.instructions.values():
        if instruction.opcode != "compare" or "direction=LT" not in instruction.attributes:
            continue
        outer = [_fusion_operand(inner, fusion, name) for name in instruction.operands]
        constant = _constant(inner, instruction.operands[1])
        if constant is not None and outer[0] is not None:
            index = _tuple_index(condition, outer[0])
            if index is not None:
                yield index, constant
        elif outer[0] is not None and outer[1] is not None:
            yield from _limit(condition, outer[0], outer[1])


def _fusion_operand(inner: Computation, fusion: Instruction, name: str) -> str | None:
    """Return the fusion's operand for a name inside the fusion; None if it is not a parameter."""
    instruction = inner.instructions.get(name)
    while instruction is not None and instruction.opcode in ("bitcast", "copy"):
        instruction = inner.instructions.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "parameter":
        return None
    index = int(instruction.operands[0])
    return fusion.operands[index] if index < len(fusion.operands) else None


def _limit(condition: Computation, left: str, right: str) -> Iterator[tuple[int, int]]:
    index, constant = _tuple_index(condition, left), _constant(condition, right)
    if index is not None and constant is not None:
        yield index, constant


def _tuple_index(computation: Computation, name: str) -> int | None:
    instruction = _without_copies(computation, name)
    found = re.search(r"index=(\d+)", instruction.attributes) if instruction else None
    return int(found.group(1)) if found and instruction and instruction.opcode == "get-tuple-element" else None


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _without_copies(computation, name)
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.operands[0]):
        return None
    return int(instruction.operands[0])


def _without_copies(computation: Computation, name: str) -> Instruction | None:
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _initial_value(computation: Computation, loop: Instruction, index: int) -> int | None:
    """Return the counter's value before the loop: a constant in the loop's initial tuple."""
    start = _without_copies(computation, loop.operands[0])
    if start is None or start.opcode != "tuple" or index >= len(start.operands):
        return None
    return _constant(computation, start.operands[index])


def _step(module: Module, body: Computation, index: int) -> int | None:
    """Return the counter's step: the body returns add(counter, constant) at the counter's index."""
    root = body.instructions.get(body.root)
    if root is None or root.opcode != "tuple":
        return None
    raised = _without_copies(body, root.operands[index])
    terms = [] if raised is None else _terms(module, raised)
    constants = [value for name in terms if (value := _constant(body, name)) is not None]
    return constants[0] if len(terms) == 2 and len(constants) == 1 and constants[0] > 0 else None


def _terms(module: Module, raised: Instruction) -> list[str]:
    """Return the operands of an addition, which may be inside a fusion."""
    if raised.opcode == "add":
        return list(raised.operands)
    inner = next((module.computations[name] for _, name in _called(raised) if name in module.computations), None)
    root = None if inner is None else inner.instructions.get(inner.root)
    if raised.opcode != "fusion" or inner is None or root is None or root.opcode != "add":
        return []
    return [outer for name in root.operands if (outer := _fusion_operand(inner, raised, name)) is not None]
