"""What a detector costs: parameters and multiply-adds by part, counted exactly.

Counted are the convolutions and matrix products of a program, one multiply-add for each
product of two numbers, products with the zeros of the padding included. The program is
traced only, neither compiled nor run. Convolutions count as the model is written,
however a platform computes them.
"""

import dataclasses
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.extend.core import ClosedJaxpr, Jaxpr
from jax.interpreters.partial_eval import dce_jaxpr

from atss_jax.models.convolution_accelerator import convolve_blocks
from atss_jax.models.platforms import PRIMITIVE_NAME

Canvas = tuple[int, int]

CUSTOMARY = (800, 1280)
"""Height, width for which mmdetection and papers state the cost of a detector."""


class Cost(NamedTuple):
    """Cost of a detector by part: 'backbone', 'neck', 'bbox_head'.

    Attributes:
        parameters: number of learned values, frozen ones included; running statistics
            are not.
        multiply_adds: multiply-adds for one image, by (height, width) of its canvas.
    """

    parameters: dict[str, int]
    multiply_adds: dict[Canvas, dict[str, int]]


def cost(model: nn.Module, canvases: Sequence[Canvas]) -> Cost:
    """Parameters and multiply-adds of each part of a detector, in evaluation.

    The whole canvas counts, since the device computes all of it.

    Args:
        model: as from `config.build_model`.
        canvases: (height, width) each, multiples of the model's `size_divisor`.

    Raises:
        ValueError: a canvas is not such a multiple; or products belong to no part.
    """
    size_divisor = model.size_divisor
    for canvas in canvases:
        if any(side < 1 or side % size_divisor for side in canvas):
            height, width = canvas
            raise ValueError(
                f'canvas {height}x{width}: expected multiples of {size_divisor}'
            )
    image = _image((8 * size_divisor, 8 * size_divisor))
    variables = jax.eval_shape(model.init, jax.random.key(0), *image)
    fields = [field.name for field in dataclasses.fields(model)]
    parts = {_part_of(name) for name in variables['params']}
    parameters = dict.fromkeys([name for name in fields if name in parts], 0)
    for name, tree in variables['params'].items():
        leaves = jax.tree.leaves(tree)
        parameters[_part_of(name)] += sum(math.prod(leaf.shape) for leaf in leaves)

    def by_part(canvas):
        counts = multiply_adds(model.apply, variables, *_image(canvas))
        return _sum_by_part(counts, parameters)

    return Cost(parameters, {canvas: by_part(canvas) for canvas in canvases})


def format_cost(cost: Cost) -> str:
    """Two tables: parameters by part, billions of multiply-adds by canvas and part."""
    parts = list(cost.parameters)
    lines = [f'{"parameters":<15}{"":>14}']
    rows = {**cost.parameters, 'all': sum(cost.parameters.values())}
    lines += [f'{part:<15}{count:>14,}' for part, count in rows.items()]
    lines += ['', 'multiply-adds of one image, in billions (10^9)']
    titles = ['height x width', *parts, 'all']
    lines.append(f'{titles[0]:<15}' + ''.join(f'{title:>14}' for title in titles[1:]))
    for (height, width), counts in cost.multiply_adds.items():
        billions = [*counts.values(), sum(counts.values())]
        cells = ''.join(f'{count / 1e9:>14.2f}' for count in billions)
        lines.append(f'{f"{height}x{width}":<15}{cells}')
    return '\n'.join(lines)


def _part_of(name):
    """The field of a module: `neck` for `neck_0` and `neck_1`, where there are two."""
    return re.sub(r'_\d+$', '', name)


def _image(canvas):
    """Shapes of one image that fills a canvas, as the model reads it."""
    image = jax.ShapeDtypeStruct((1, *canvas, 3), jnp.float32)
    return image, jax.ShapeDtypeStruct((1, 2), jnp.int32)


def _sum_by_part(counts, parts):
    """Adds up by the first module below the model: `ATSS/backbone/conv1`."""
    sums = dict.fromkeys(parts, 0)
    for path, count in counts.items():
        part = _part_of(path.split('/')[1]) if '/' in path else ''
        if part not in sums:
            raise ValueError(
                f'{count} multiply-adds at {path!r} belong to none of {list(sums)}'
            )
        sums[part] += count
    return sums


def multiply_adds(function: Callable, *arguments: Any) -> dict[str, int]:
    """Multiply-adds of `function(*arguments)` by scope, such as `ATSS/neck/conv`.

    Args:
        function: traced by JAX; not run.
        arguments: trees of arrays, or of `jax.ShapeDtypeStruct`.

    Raises:
        ValueError: products in a loop or branch whose number of runs is unknown.
    """
    counts = Counter()
    _add(jax.make_jaxpr(function)(*arguments).jaxpr, '', 1, counts)
    return dict(counts)


def _add(jaxpr: Jaxpr, scope: str, times: int, counts: Counter) -> None:
    """Adds the products of a program that runs `times`, and of programs within it."""
    for equation in jaxpr.eqns:
        path = '/'.join(filter(None, (scope, str(equation.source_info.name_stack))))
        name = equation.primitive.name
        if equation.params.get('name') == convolve_blocks.__name__:
            counts[path] += times * _convolution_as_written(equation)
            continue
        count = _PRODUCTS[name](equation) if name in _PRODUCTS else 0
        if count:
            counts[path] += times * count
        inner = Counter()
        runs = equation.params['length'] if name == 'scan' else 1
        for program in _programs(equation):
            _add(program, path, times * runs, inner)
        if inner and name in ('while', 'cond'):
            raise ValueError(f'{path}: how often does this {name!r} run? It multiplies')
        counts.update(inner)


def _programs(equation) -> list[Jaxpr]:
    """The programs that an equation calls."""
    if equation.primitive.name == PRIMITIVE_NAME:
        return [_program_on_accelerators(equation)]
    programs = []
    for value in equation.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                programs.append(item.jaxpr)
            elif isinstance(item, Jaxpr):
                programs.append(item)
    return programs


def _program_on_accelerators(equation):
    """Their ways are the convolutions of the model, except for `convolve_blocks`."""
    operands = [operand.aval for operand in equation.invars]
    jaxpr = jax.make_jaxpr(equation.params['functions'].accelerator)(*operands).jaxpr
    # A gradient is traced with the result that it belongs to, which is not computed.
    return dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]


def _convolution_as_written(equation):
    """Products of a function of features and kernel, however it computes them."""
    kernel = equation.invars[1].aval.shape
    return equation.outvars[0].aval.size * math.prod(kernel[:-1])


def _convolution(equation):
    """Each output is a sum over the kernel's sides and its group's input channels.

    Zeros inserted between the inputs, as in the gradient of a stride, do not count.
    """
    kernel = equation.invars[1].aval.shape
    features = kernel[equation.params['dimension_numbers'].rhs_spec[0]]
    inserted = features * math.prod(equation.params['lhs_dilation'])
    return equation.outvars[0].aval.size * math.prod(kernel) // inserted


def _product(equation):
    """Each output is a sum over the contracted dimensions."""
    (contracted, _), _ = equation.params['dimension_numbers']
    shape = equation.invars[0].aval.shape
    return equation.outvars[0].aval.size * math.prod(shape[d] for d in contracted)


_PRODUCTS = {'conv_general_dilated': _convolution, 'dot_general': _product}
