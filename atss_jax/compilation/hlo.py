"""Reads the text of a compiled program: instructions, buffers, where they come from.

Only what `traffic` needs. The text is that of `jax.stages.Compiled.as_text()`, or one
that XLA writes on its way there.
"""

import dataclasses
import functools
import math
import re

_BITS = {'pred': 8, 'bf16': 16, 'token': 0, 'opaque': 0}
_ARRAY = re.compile(r'([a-z]\w*)\[([\d,<=]*)\](?:\{([\d,]*)(?::([^}]*))?\})?')
_TILE = re.compile(r'T?\(([\d,]+)\)')
_MEMORY = re.compile(r'S\((\d+)\)')
_INSTRUCTION = re.compile(r'^\s+(ROOT )?%([\w.\-]+) = (.*)$')
_COMPUTATION = re.compile(r'^(ENTRY )?%([\w.\-]+) \(.*\{$')
_NAME = re.compile(r'%([\w.\-]+)')
_COMMENT = re.compile(r'/\*.*?\*/')

HBM = 0
"""The memory space of buffers in HBM; the others are on the chip."""


@dataclasses.dataclass(frozen=True)
class Buffer:
    """An array in memory.

    Attributes:
        dtype: XLA's name of the type of its elements.
        shape: its shape.
        minor_to_major: its dimensions, that of neighboring elements first.
        tile: the last dimensions in memory are padded to multiples of these.
        memory: its memory space; 0 is HBM.
    """

    dtype: str
    shape: tuple[int, ...]
    minor_to_major: tuple[int, ...] = ()
    tile: tuple[int, ...] = ()
    memory: int = HBM

    @property
    def values(self) -> int:
        """Bytes of its elements alone."""
        return math.prod(self.shape) * _bits(self.dtype) // 8

    @property
    def size(self) -> int:
        """Bytes that it takes in memory, with the padding of its tiles."""
        order = self.minor_to_major or range(len(self.shape))[::-1]
        sides = [self.shape[dimension] for dimension in order]
        sides += [1] * (len(self.tile) - len(sides))
        for place, length in enumerate(reversed(self.tile)):
            sides[place] = -(-sides[place] // length) * length
        return math.prod(sides) * _bits(self.dtype) // 8


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
        name: its name, without `%`.
        opcode: what it does.
        results: the arrays that it gives, those within tuples too.
        operands: names of the instructions whose results it takes.
        literal: what stands between the parentheses: operands, or a value.
        attributes: the rest of the line.
    """

    name: str
    opcode: str
    results: tuple[Buffer, ...]
    operands: tuple[str, ...]
    literal: str
    attributes: str

    def attribute(self, name: str) -> str | None:
        """The value of an attribute that is the name of a computation."""
        match = re.search(rf'\b{name}=%([\w.\-]+)', self.attributes)
        return match and match[1]

    @property
    def op_name(self) -> str:
        """The scopes in which JAX traced it: `jit(step)/jvp(ATSS)/neck/conv/add`."""
        match = re.search(r'op_name="((?:[^"\\]|\\.)*)"', self.attributes)
        return match[1] if match else ''

    @property
    def frame(self) -> int | None:
        """Number of the line of code that it was traced at, in the module's table."""
        match = re.search(r'stack_frame_id=(\d+)', self.attributes)
        return int(match[1]) if match else None


@dataclasses.dataclass(frozen=True)
class Computation:
    """Instructions by name, in the order in which they run; the last gives the result.

    Attributes:
        name: its name, without `%`.
        instructions: its instructions.
    """

    name: str
    instructions: dict[str, Instruction]


@dataclasses.dataclass(frozen=True)
class Module:
    """A program.

    Attributes:
        entry: where it begins.
        computations: all its computations by name.
        files: names of the files of code by number of `Instruction.frame`.
    """

    entry: Computation
    computations: dict[str, Computation]
    files: dict[int, str]


def parse(text: str) -> Module:
    """Reads the text of a program.

    Raises:
        ValueError: it has no entry, or a line that cannot be read.
    """
    computations, entry, current = {}, None, None
    for line in text.splitlines():
        if match := _COMPUTATION.match(line):
            current = Computation(match[2], {})
            computations[current.name] = current
            entry = current if match[1] else entry
        elif line.startswith('}'):
            current = None
        elif current is not None and (match := _INSTRUCTION.match(line)):
            instruction = _instruction(match[2], match[3])
            current.instructions[instruction.name] = instruction
    if entry is None:
        raise ValueError('not the text of a compiled program: it has no ENTRY')
    for computation in computations.values():
        for name, instruction in computation.instructions.items():
            if instruction.opcode == 'async-start':
                short = _started(computations, instruction)
                computation.instructions[name] = short
    return Module(entry, computations, _files(text))


def _started(computations, instruction):
    """`slice-start`, where the text has `async-start` of a computation with a slice.

    Both mean the same: the first is written of compiled programs, the second of planned
    ones.
    """
    called = computations[instruction.attribute('calls')].instructions
    *_, last = called.values()
    return dataclasses.replace(instruction, opcode=f'{last.opcode}-start')


def _instruction(name, rest):
    end = _end_of_parenthesis(rest) if rest.startswith('(') else rest.find(' ')
    shape, rest = rest[:end], rest[end:].lstrip()
    opcode, parenthesis, _ = rest.partition('(')
    if end < 0 or not parenthesis:
        raise ValueError(f'cannot read the instruction %{name} of a compiled program')
    end = _end_of_parenthesis(rest[len(opcode) :]) + len(opcode)
    literal = rest[len(opcode) + 1 : end - 1]
    operands = tuple(_NAME.findall(literal))
    return Instruction(name, opcode, buffers(shape), operands, literal, rest[end:])


def _end_of_parenthesis(text):
    """The index after the parenthesis that closes the first one."""
    depth = 0
    for match in re.finditer(r'[()]', text):
        depth += 1 if match[0] == '(' else -1
        if depth == 0:
            return match.end()
    return -1


@functools.lru_cache(maxsize=4096)
def buffers(shape: str) -> tuple[Buffer, ...]:
    """The arrays of a shape as the text has it, such as `(f32[2]{0:T(128)}, u32[])`."""
    return tuple(_buffer(*match) for match in _ARRAY.findall(_COMMENT.sub('', shape)))


def _buffer(dtype, shape, minor_to_major, layout):
    tile = _TILE.search(layout.partition('S(')[0])
    memory = _MEMORY.search(layout)
    return Buffer(
        dtype,
        _numbers(shape.replace('<=', '')),
        _numbers(minor_to_major),
        _numbers(tile[1]) if tile else (),
        int(memory[1]) if memory else HBM,
    )


def _numbers(text):
    return tuple(int(number) for number in text.split(',') if number)


def _bits(dtype):
    if dtype in _BITS:
        return _BITS[dtype]
    digits = re.search(r'\d+', dtype)
    if digits is None:
        raise ValueError(f'a compiled program has elements of unknown type {dtype!r}')
    return int(digits[0])


def _files(text):
    """The file of each stack frame, by the four tables before the program."""
    tables, current = {}, None
    for line in text.splitlines():
        if line in ('FileNames', 'FunctionNames', 'FileLocations', 'StackFrames'):
            current = tables.setdefault(line, {})
        elif current is not None and (match := re.match(r'(\d+) (.*)$', line)):
            current[int(match[1])] = match[2]
        elif line.startswith(('%', 'ENTRY')):
            break
    names = {
        number: name.strip('"') for number, name in tables.get('FileNames', {}).items()
    }
    locations = _column(tables.get('FileLocations', {}), 'file_name_id')
    frames = _column(tables.get('StackFrames', {}), 'file_location_id')
    return {
        frame: names[locations[location]]
        for frame, location in frames.items()
        if locations.get(location) in names
    }


def _column(table, name):
    matches = {
        number: re.search(rf'{name}=(\d+)', row) for number, row in table.items()
    }
    return {number: int(match[1]) for number, match in matches.items() if match}
