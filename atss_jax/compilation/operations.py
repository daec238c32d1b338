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
    result = product.results[0]
    if product.opcode == 'dot':
        contracted = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', product.attributes)
        sides = [first.shape[int(x)] for x in contracted[1].split(',') if x]
        return 2 * math.prod(result.shape) * math.prod(sides)
    labels = re.search(r'dim_labels=(\w+)_(\w+)->(\w+)', product.attributes)
    inputs, kernel, outputs = (
        dict(zip(names, shape, strict=True))
        for names, shape in zip(
            labels.groups(), (first.shape, second.shape, result.shape), strict=True
        )
    )
    total = 2 * outputs['b'] * outputs['f'] * kernel['i']
    for axis, window in enumerate(_windows(product, labels[2])):
        name = str(axis)
        total *= _pairs(inputs[name], kernel[name], outputs[name], **window)
    return total


def _windows(product, labels):
    """Stride, padding and dilations of a convolution along each of its axes."""
    axes = sum(label.isdigit() for label in labels)
    window = re.search(r'window=\{([^}]*)\}', product.attributes)
    fields = dict(x.split('=') for x in window[1].split()) if window else {}

    def numbers(name, default):
        return fields[name].split('x') if name in fields else [default] * axes

    for axis in range(axes):
        yield {
            'stride': int(numbers('stride', 1)[axis]),
            'before': int(numbers('pad', '0_0')[axis].split('_')[0]),
            'between': int(numbers('lhs_dilate', 1)[axis]),
            'apart': int(numbers('rhs_dilate', 1)[axis]),
        }


def _pairs(inputs, kernel, outputs, stride, before, between, apart):
    """How many products of an input and a kernel's element there are along an axis.

    Without the zeros around the input and between its elements: XLA writes products of
    many matrices as one convolution in which most of the input is such zeros.
    """
    return sum(
        0 <= place < inputs * between and place % between == 0
        for output in range(outputs)
        for element in range(kernel)
        for place in [output * stride + element * apart - before]
    )
