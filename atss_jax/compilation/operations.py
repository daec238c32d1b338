"""Operations of a compiled program that XLA's own count leaves out.

XLA counts what is in a loop once, however often the loop runs.
"""

import math
import re
from collections.abc import Iterator

from atss_jax.compilation.hlo import Computation, Instruction, Module
from atss_jax.compilation.traffic import runs


def repeated(module: Module) -> int:
    """Operations of the matrix products in loops, without the first run of each.

    A multiply-add is two of them. Other operations in loops are few next to these.
    """
    return sum(
        (times - 1) * _of_instruction(module, computation, instruction)
        for computation, instruction, times in runs(module, module.entry, 1)
        if times > 1
    )


def _of_instruction(module, computation, instruction):
    return sum(
        _of_product(place, product)
        for place, product in _products(module, computation, instruction)
    )


def _products(
    module: Module, computation: Computation, instruction: Instruction
) -> Iterator[tuple[Computation, Instruction]]:
    """The convolutions and products of an instruction, those within fusions too."""
    if instruction.opcode == 'fusion':
        fused = module.computations[instruction.attribute('calls')]
        for inner in fused.instructions.values():
            yield from _products(module, fused, inner)
    elif instruction.opcode in ('convolution', 'dot'):
        yield computation, instruction


def _of_product(computation, product):
    """2 for each element of the result and each element that is added up for it."""
    first, second = (computation.instructions[x].results[0] for x in product.operands)
    if product.opcode == 'dot':
        contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', product.attributes)
        sides = [first.shape[int(x)] for x in contracted[1].split(',') if x]
    else:
        labels = re.search(r'dim_labels=\w+_(\w+)->', product.attributes)[1]
        sides = [
            side
            for side, label in zip(second.shape, labels, strict=True)
            if label != 'o'
        ]
    return 2 * math.prod(product.results[0].shape) * math.prod(sides)
