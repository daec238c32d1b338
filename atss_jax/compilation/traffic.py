"""How many bytes a compiled program moves between HBM and the chip, and over links.

Counted are the buffers in HBM that each instruction reads and writes, with the padding
of their tiles: each operand once, each result once, of slices only the slice. What
happens within a fusion stays on the chip. The real program may move more, where an
operand does not fit on the chip and is read repeatedly.
"""

import collections
import dataclasses
import re
from collections.abc import Iterator

from atss_jax.compilation.fusion_parts import read_shares, written_shares
from atss_jax.compilation.hlo import HBM, Buffer, Computation, Instruction, Module

_FREE = {
    *('parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast', 'after-all'),
    *('partition-id', 'replica-id', 'opt-barrier', 'add-dependency', 'domain'),
}
# What reads only as much of its first operand as it gives.
_SLICES = {'slice', 'dynamic-slice', 'gather', 'slice-start'}
_AHEAD = {'copy-start', 'slice-start'}
_COPIES = {'copy', 'transpose', 'reshape', 'slice'}
_REDUCTIONS = {'all-reduce', 'all-reduce-start'}
_COLLECTIVES = {*_REDUCTIONS, 'reduce-scatter', 'all-gather', 'send', 'recv'}
_MATMULS = {'convolution', 'dot'}
_MEGASCALE = 'xla_megascale_runtime'  # moves data between slices

KINDS = ('convolutions', 'copies', 'prefetches', 'all-reduce', 'sorting', 'others')
"""Kinds of instructions.

'convolutions' are those of a convolution or a matrix product, with all that is fused to
it; 'copies' change the order of elements in memory; 'prefetches' bring what a later
instruction needs to the chip, or results back to HBM, next to other work.
"""


@dataclasses.dataclass(frozen=True)
class Moved:
    """What one instruction moves and takes, in all its runs.

    Attributes:
        instruction: the instruction.
        kind: one of `KINDS`.
        module: the part of the detector that it belongs to, such as
            `backbone/layer2_0`; or the file of code, such as `detection/nms.py`.
        backward: whether it belongs to the backward pass.
        read: bytes read from HBM.
        written: bytes written to HBM.
        cycles: cycles of the chip that it takes, as the compiler estimates; 0 where it
            does not say: prefetches, collectives and most small instructions.
    """

    instruction: Instruction
    kind: str
    module: str
    backward: bool
    read: int
    written: int
    cycles: int

    @property
    def size(self) -> int:
        """Bytes in both directions."""
        return self.read + self.written


@dataclasses.dataclass(frozen=True)
class Traffic:
    """What a program moves.

    Attributes:
        moved: by instruction, all that move anything or have an estimate of cycles.
        instructions: number of instructions of the program, without those within
            fusions.
        all_reduces: bytes of the values of each all-reduce between chips of a slice. A
            reduce-scatter, which an all-gather follows, is one of them too.
        between_slices: bytes of each array that a chip sends to other slices.
        unknown_loops: number of loops that are counted once, since the program does not
            say how often they run.
    """

    moved: tuple[Moved, ...]
    instructions: int
    all_reduces: tuple[int, ...]
    between_slices: tuple[int, ...]
    unknown_loops: int

    @property
    def size(self) -> int:
        """Bytes read and written."""
        return sum(moved.size for moved in self.moved)

    @property
    def cycles(self) -> int:
        """Cycles of all instructions for which the compiler gives an estimate."""
        return sum(moved.cycles for moved in self.moved)

    def cycles_by_module(self) -> dict[str, int]:
        """Cycles by module and direction, most first; without those that have none."""
        sums = collections.Counter()
        for moved in self.moved:
            sums[_label(moved)] += moved.cycles
        return {name: cycles for name, cycles in sums.most_common() if cycles}

    def by_kind(self) -> dict[str, int]:
        """Bytes by kind, for all of `KINDS`."""
        sums = collections.Counter({kind: 0 for kind in KINDS})
        for moved in self.moved:
            sums[moved.kind] += moved.size
        return dict(sums)

    def by_module(self) -> dict[str, int]:
        """Bytes by module and direction, most first."""
        sums = collections.Counter()
        for moved in self.moved:
            sums[_label(moved)] += moved.size
        return {name: size for name, size in sums.most_common() if size}


def _label(moved):
    return f'{moved.module}{" (backward)" if moved.backward else ""}'


def traffic(module: Module) -> Traffic:
    """Counts what a program moves, from its text as `hlo.parse` reads it."""
    all_runs = list(runs(module, module.entry, 1))
    moved, users = [], {}
    for computation, instruction, times in all_runs:
        read, written = _bytes(module, computation, instruction)
        cycles = _cycles(instruction)
        if read + written + cycles:
            if computation.name not in users:
                users[computation.name] = _users(computation)
            named = _named(computation, users[computation.name], instruction)
            name, backward = _origin(module, named)
            kind = _kind(module, instruction)
            counts = (times * count for count in (read, written, cycles))
            moved.append(Moved(instruction, kind, name, backward, *counts))
    loops = [x for _, x, _ in all_runs if x.opcode == 'while']
    return Traffic(
        tuple(moved),
        len(all_runs),
        tuple(_all_reduces(module)),
        tuple(_sends(module)),
        sum(trip_count(module, loop) is None for loop in loops),
    )


def runs(
    module: Module, computation: Computation, times: int
) -> Iterator[tuple[Computation, Instruction, int]]:
    """Each instruction that is not within a fusion, and how often it runs."""
    for instruction in computation.instructions.values():
        yield computation, instruction, times
        if instruction.opcode == 'while':
            count = trip_count(module, instruction)
            body = module.computations[instruction.attribute('body')]
            yield from runs(module, body, times * (1 if count is None else count))
        elif instruction.opcode == 'call':
            called = module.computations[instruction.attribute('to_apply')]
            yield from runs(module, called, times)
        elif instruction.opcode == 'conditional':
            for name in _branches(instruction):
                yield from runs(module, module.computations[name], times)


def _branches(instruction):
    """Names of the branches of a conditional; all of them count."""
    match = re.search(r'branch_computations=\{([^}]*)\}', instruction.attributes)
    if match:
        return re.findall(r'%([\w.\-]+)', match[1])
    names = ('true_computation', 'false_computation')
    return [instruction.attribute(name) for name in names]


def trip_count(module: Module, loop: Instruction) -> int | None:
    """How often the body of a `while` runs; None: the program does not say.

    A loop over a range ends when its counter, from 0, is no longer below a constant.
    """
    known = re.search(r'known_trip_count[^\d}]*(\d+)', loop.attributes)
    if known:
        return int(known[1])
    condition = module.computations[loop.attribute('condition')].instructions
    result = list(condition.values())[-1]
    if result.opcode != 'compare' or 'direction=LT' not in result.attributes:
        return None
    bound = condition[result.operands[1]]
    is_known = bound.opcode == 'constant' and bound.literal.isdecimal()
    return int(bound.literal) if is_known else None


def _cycles(instruction):
    match = re.search(r'"estimated_cycles":"(\d+)"', instruction.attributes)
    return int(match[1]) if match else 0


def _bytes(module, computation, instruction) -> tuple[int, int]:
    """Bytes that one run of an instruction reads from and writes to HBM."""
    opcode = instruction.opcode
    if opcode in _FREE or opcode.endswith('-done') or opcode in ('while', 'call'):
        return 0, 0
    if opcode == 'conditional' or 'AllocateBuffer' in instruction.attributes:
        return 0, 0
    results = _results(instruction)
    written = _in_hbm(results)
    operands = [
        _results(computation.instructions[name]) for name in instruction.operands
    ]
    if opcode in _SLICES:
        first, *others = operands
        part = sum(result.size for result in results)
        read = min(_in_hbm(first), part) + sum(map(_in_hbm, others))
    elif opcode == 'dynamic-update-slice':
        update = operands[1]
        size = sum(buffer.size for buffer in update)
        return _in_hbm(update), size if written else 0
    elif opcode == 'fusion':
        fused = module.computations[instruction.attribute('calls')]
        return _bytes_of_fusion(fused, operands, results)
    else:
        read = sum(map(_in_hbm, operands))
    return read, written


def _bytes_of_fusion(fused, operands, results):
    shares = read_shares(fused)
    read = sum(
        shares.get(number, 1.0) * _in_hbm(operand)
        for number, operand in enumerate(operands)
    )
    written = sum(
        share * _in_hbm([result])
        for share, result in zip(written_shares(fused), results, strict=True)
    )
    return round(read), round(written)


def _results(instruction) -> tuple[Buffer, ...]:
    """The arrays that an instruction gives; where it begins a copy, the copy only."""
    results = instruction.results
    if instruction.opcode in ('copy-start', 'recv'):
        return results[:1]
    if instruction.opcode == 'slice-start':
        return results[1:2]
    return () if instruction.opcode == 'send' else results


def _in_hbm(results):
    return sum(buffer.size for buffer in results if buffer.memory == HBM)


def _all_reduces(module):
    """Bytes of each all-reduce, those within fusions too."""
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode in _REDUCTIONS:
                yield _values(instruction)
            elif instruction.opcode == 'reduce-scatter':
                instructions = computation.instructions
                yield sum(_values(instructions[x]) for x in instruction.operands)


def _sends(module):
    """Bytes of each array that is sent to other slices, by way of the host."""
    for computation in module.computations.values():
        for instruction in computation.instructions.values():
            if instruction.opcode == 'send' and _MEGASCALE in instruction.attributes:
                yield _values(computation.instructions[instruction.operands[0]])


def _values(instruction):
    return sum(buffer.values for buffer in _results(instruction))


def _kind(module, instruction):
    opcodes = {instruction.opcode}
    if instruction.opcode == 'fusion':
        fused = module.computations[instruction.attribute('calls')]
        opcodes |= {inner.opcode for inner in fused.instructions.values()}
    if opcodes & _MATMULS:
        return 'convolutions'
    if opcodes & _COLLECTIVES:
        return 'all-reduce'
    if instruction.opcode in _AHEAD:
        return 'prefetches'
    if instruction.opcode in _COPIES:
        return 'copies'
    return 'sorting' if 'sort' in opcodes else 'others'


def _users(computation):
    """The instructions that take the result of each, by its name."""
    users = collections.defaultdict(list)
    for instruction in computation.instructions.values():
        for name in instruction.operands:
            users[name].append(instruction)
    return users


def _named(computation, users, instruction):
    """An instruction, or for a copy without an `op_name` the one that needs it.

    That is the first that takes the result; for a result that goes to HBM, in the order
    of the program, the one that gave it.
    """
    waiting, seen = collections.deque([instruction]), set()
    goes_to_hbm = _in_hbm(_results(instruction)) > 0
    while waiting:
        this = waiting.popleft()
        if this.op_name:
            return this
        seen.add(this.name)
        if goes_to_hbm:
            others = [computation.instructions[name] for name in this.operands]
        else:
            others = users[this.name]
        waiting.extend(other for other in others if other.name not in seen)
    return instruction


_MODEL = 'ATSS'


def _origin(module, instruction) -> tuple[str, bool]:
    """The part of the detector or the file that an instruction is from, and direction.

    An `op_name` is `jit(train_step)/shard_map/transpose(jvp(ATSS))/neck/conv/add`.
    """
    scopes = instruction.op_name.split('/')
    backward = any(scope.startswith('transpose(') for scope in scopes)
    for place, scope in enumerate(scopes):
        if re.sub(r'\w+\(|\)', '', scope) == _MODEL:
            inner = [x for x in scopes[place + 1 : -1] if '(' not in x and '.' not in x]
            if inner:
                return '/'.join(inner[:2]), backward
    file = module.files.get(instruction.frame, '')
    return (file.partition('atss_jax/')[2] or 'elsewhere'), backward
