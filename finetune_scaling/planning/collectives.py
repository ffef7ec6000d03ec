"""What a compiled program sends between chips, read from its optimised HLO text.

Loops: XLA's own known_trip_count where the text has it (CPUs, GPUs); otherwise, on TPUs, the loop's condition is read,
which compares a counter with a constant, and the counter's first value and step from the loop's operand and body. A
loop that ends by something else too (decoding: all rows have ended) counts as long as its counter allows. A loop of
which none of this can be read counts once, and is counted in `unknown_loops`.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping

KINDS = ("all-gather", "reduce-scatter", "all-reduce", "all-to-all", "collective-permute")


@dataclasses.dataclass(frozen=True)
class Traffic:
    """Of one kind of collective, for each chip and step.

    instructions: in the text. count: executed. bytes: of the whole arrays, gathered or not yet scattered, summed over
    executions. link_bytes: what a chip receives of them at least; n chips share:
    all-gather, reduce-scatter, all-to-all (n-1)/n of the bytes, all-reduce twice that, collective-permute all.
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
    """Traffic of a program by kind, for kinds that occur; unknown_loops: loops that were counted once."""

    by_kind: Mapping[str, Traffic]
    unknown_loops: int = 0

    @property
    def link_bytes(self) -> int:
        """Bytes that a chip receives in all, at least."""
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
    """A block of HLO; root is its result."""

    name: str
    instructions: Mapping[str, Instruction]
    root: str


@dataclasses.dataclass(frozen=True)
class Module:
    """A parsed program: computations by name, which of them is entered, and over how many chips it runs."""

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
    """The collectives of a compiled program, `compiled.as_text()`."""
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
    """The computations of an HLO module. Raises ValueError where the text has no entry."""
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
        raise ValueError("this is not the text of a compiled program: it has no ENTRY")
    found = re.search(r"num_partitions=(\d+)", text)
    return Module(computations, entry, int(found.group(1)) if found else 1)


def _instruction(name: str, rest: str) -> Instruction:
    shape, rest = _split_shape(rest)
    opcode, _, rest = rest.partition("(")
    operands, attributes = _split_parenthesis(rest)
    return Instruction(name, shape, opcode, tuple(_REFERENCE.findall(operands)) or (operands,), attributes)


def _split_shape(text: str) -> tuple[str, str]:
    """A shape, which is a tuple in parentheses or one array, and what follows."""
    if not text.startswith("("):
        shape, _, rest = text.partition(" ")
        return shape, rest
    inside, rest = _split_parenthesis(text[1:])
    return f"({inside})", rest.lstrip()


def _split_parenthesis(text: str) -> tuple[str, str]:
    """What is before the parenthesis that closes the one already open, and what is behind it."""
    depth = 1
    for place, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth == 0:
            return text[:place], text[place + 1 :]
    return text, ""


def _kind(computation: Computation, instruction: Instruction) -> str | None:
    opcode = instruction.opcode.removesuffix("-start")
    if opcode == "all-reduce" and computation.name.startswith("all-reduce-scatter"):
        return "reduce-scatter"  # how TPUs write it: an all-reduce fused with the slice that is kept
    return opcode if opcode in KINDS else None


def _chain(instruction: Instruction) -> tuple[str, str] | None:
    """Names a collective that a TPU spreads over several fusions, each of which repeats its instruction."""
    chain = re.search(r'chain_id="(\d+)"', instruction.attributes)
    channel = re.search(r"channel_id=(\d+)", instruction.attributes)
    return (chain.group(1), channel.group(1)) if chain and channel else None


def _traffic(kind: str, computation: Computation, instruction: Instruction, times: int, partitions: int) -> Traffic:
    members = _group_size(instruction.attributes, partitions)
    size = _whole_bytes(kind, computation, instruction, members)
    share = {"all-reduce": 2 * (members - 1) / members, "collective-permute": 1.0}.get(kind, (members - 1) / members)
    return Traffic(1, times, times * size, round(times * size * share))


def _whole_bytes(kind: str, computation: Computation, instruction: Instruction, members: int) -> int:
    """Bytes of the undivided array: result of a gather, operand of a scatter."""
    arrays = array_bytes(instruction.shape)
    if kind == "reduce-scatter":
        scattered = instruction.opcode.startswith("reduce-scatter")
        return _result(instruction, arrays) * members if scattered else sum(arrays)
    return _result(instruction, arrays)


def _result(instruction: Instruction, arrays: list[int]) -> int:
    """Bytes of the result; of the -start forms, whose shape lists operands first and then results, of those."""
    if not instruction.opcode.endswith("-start") or not instruction.shape.startswith("("):
        return sum(arrays)
    if instruction.opcode == "all-reduce-start":  # which gives its results alone
        return sum(arrays)
    count = len(instruction.operands)
    return sum(arrays[count : 2 * count])


def array_bytes(shape: str) -> list[int]:
    """Bytes of every array of a shape, tuples flattened: "(f32[2,3]{1,0}, pred[])" -> [24, 1]."""
    found = _ARRAY.findall(shape)
    return [math.ceil(_bits(kind) * math.prod(int(n) for n in sizes.split(",") if n) / 8) for kind, sizes in found]


def _bits(kind: str) -> int:
    return 8 if kind == "pred" else int(re.findall(r"\d+", kind)[0])


def _group_size(attributes: str, partitions: int) -> int:
    """How many chips share a collective, from any of the ways in which HLO writes replica groups."""
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
    """How often each computation is executed in one run of the program, and how many loops are of unknown length."""
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
    """How often a loop's body is executed at most; None where the text does not tell."""
    if found := re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.attributes):
        return int(found.group(1))
    roles = dict(_called(loop))
    condition, body = module.computations[roles["condition"]], module.computations[roles["body"]]
    counts = [
        math.ceil((limit - first) / step)
        for index, limit in _limits(module, condition)
        if (first := _first_value(computation, loop, index)) is not None
        and (step := _step(module, body, index)) is not None
    ]
    return max(0, min(counts)) if counts else None


def _limits(module: Module, condition: Computation) -> Iterator[tuple[int, int]]:
    """Every (place in the loop's tuple, constant) that the condition holds the one below the other."""
    for instruction in condition.instructions.values():
        if instruction.opcode == "compare" and "direction=LT" in instruction.attributes:
            left, right = instruction.operands
            yield from _limit(condition, left, right)
        for _, called in _called(instruction):
            inner = module.computations.get(called)
            if inner is not None:
                yield from _fused_limits(condition, instruction, inner)


def _fused_limits(condition: Computation, fusion: Instruction, inner: Computation) -> Iterator[tuple[int, int]]:
    """As _limits, of a comparison inside a fusion, whose parameters are the fusion's operands."""
    for instruction in inner.instructions.values():
        if instruction.opcode != "compare" or "direction=LT" not in instruction.attributes:
            continue
        outer = [_outside(inner, fusion, name) for name in instruction.operands]
        constant = _constant(inner, instruction.operands[1])
        if constant is not None and outer[0] is not None:
            index = _tuple_index(condition, outer[0])
            if index is not None:
                yield index, constant
        elif outer[0] is not None and outer[1] is not None:
            yield from _limit(condition, outer[0], outer[1])


def _outside(inner: Computation, fusion: Instruction, name: str) -> str | None:
    """The fusion's operand that a name inside it stands for."""
    instruction = inner.instructions.get(name)
    while instruction is not None and instruction.opcode in ("bitcast", "copy"):
        instruction = inner.instructions.get(instruction.operands[0])
    if instruction is None or instruction.opcode != "parameter":
        return None
    place = int(instruction.operands[0])
    return fusion.operands[place] if place < len(fusion.operands) else None


def _limit(condition: Computation, left: str, right: str) -> Iterator[tuple[int, int]]:
    index, constant = _tuple_index(condition, left), _constant(condition, right)
    if index is not None and constant is not None:
        yield index, constant


def _tuple_index(computation: Computation, name: str) -> int | None:
    instruction = _behind_copies(computation, name)
    found = re.search(r"index=(\d+)", instruction.attributes) if instruction else None
    return int(found.group(1)) if found and instruction and instruction.opcode == "get-tuple-element" else None


def _constant(computation: Computation, name: str) -> int | None:
    instruction = _behind_copies(computation, name)
    if instruction is None or instruction.opcode != "constant" or not re.fullmatch(r"-?\d+", instruction.operands[0]):
        return None
    return int(instruction.operands[0])


def _behind_copies(computation: Computation, name: str) -> Instruction | None:
    instruction = computation.instructions.get(name)
    while instruction is not None and instruction.opcode in ("copy", "bitcast", "copy-done", "copy-start"):
        instruction = computation.instructions.get(instruction.operands[0])
    return instruction


def _first_value(computation: Computation, loop: Instruction, index: int) -> int | None:
    """The counter's value before the loop: a constant in the tuple that the loop starts from."""
    start = _behind_copies(computation, loop.operands[0])
    if start is None or start.opcode != "tuple" or index >= len(start.operands):
        return None
    return _constant(computation, start.operands[index])


def _step(module: Module, body: Computation, index: int) -> int | None:
    """By how much the body raises the counter: it returns add(counter, constant) at the counter's place."""
    root = body.instructions.get(body.root)
    if root is None or root.opcode != "tuple":
        return None
    raised = _behind_copies(body, root.operands[index])
    terms = [] if raised is None else _terms(module, raised)
    constants = [value for name in terms if (value := _constant(body, name)) is not None]
    return constants[0] if len(terms) == 2 and len(constants) == 1 and constants[0] > 0 else None


def _terms(module: Module, raised: Instruction) -> list[str]:
    """What an addition adds, which may be alone in a fusion."""
    if raised.opcode == "add":
        return list(raised.operands)
    inner = next((module.computations[name] for _, name in _called(raised) if name in module.computations), None)
    root = None if inner is None else inner.instructions.get(inner.root)
    if raised.opcode != "fusion" or inner is None or root is None or root.opcode != "add":
        return []
    return [outer for name in root.operands if (outer := _outside(inner, raised, name)) is not None]
