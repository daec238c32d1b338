"""How much of its operands and results a fusion really reads and writes.

A loop over images passes whole arrays along: one fusion takes a slice of an operand,
another one replaces a slice of a result where it lies. Only the slices are moved.
"""

from atss_jax.compilation.hlo import Buffer, Computation, Instruction

_SLICES = {'slice', 'dynamic-slice', 'gather'}
# What changes a part of its first operand, and the place of the part.
_UPDATES = {'dynamic-update-slice': 1, 'scatter': 2}


def read_shares(fused: Computation) -> dict[int, float]:
    """The part of each operand that a fused computation reads, by number; at most 1."""
    shares = {}
    for instruction in fused.instructions.values():
        if instruction.opcode == 'parameter':
            whole = sum(buffer.values for buffer in instruction.results)
            values = _values_read(fused, instruction)
            shares[int(instruction.literal)] = min(1.0, values / whole) if whole else 0
    return shares


def written_shares(fused: Computation) -> list[float]:
    """The part of each result that is written; the rest is an operand's, in place."""
    root = list(fused.instructions.values())[-1]
    parts = [root]
    if root.opcode == 'tuple':
        parts = [fused.instructions[name] for name in root.operands]
    # A part may give several results itself, as a reduction of several arrays does.
    return [_written(fused, part) for part in parts for _ in part.results]


def _values_read(fused: Computation, source: Instruction) -> int:
    """Bytes of the elements of `source` that the instructions of `fused` read."""
    total = 0
    for user in fused.instructions.values():
        if source.name not in user.operands:
            continue
        first_only = user.operands.index(source.name) == 0 and (
            user.operands.count(source.name) == 1
        )
        if user.opcode == 'bitcast':
            total += _values_read(fused, user)
        elif user.opcode in _SLICES and first_only:
            total += _values(user.results)
        elif not (_is_update(user) and first_only):
            return _values(source.results)
        elif user.opcode == 'scatter':  # may add to what is there
            total += _values(fused.instructions[user.operands[2]].results)
    return total


def _written(fused, result):
    while result.opcode == 'bitcast':
        result = fused.instructions[result.operands[0]]
    if not _is_update(result):
        return 1.0
    update = fused.instructions[result.operands[_UPDATES[result.opcode]]]
    return _values(update.results) / _values(result.results)


def _is_update(instruction):
    return instruction.opcode in _UPDATES and len(instruction.results) == 1


def _values(results: tuple[Buffer, ...]) -> int:
    return sum(buffer.values for buffer in results)
