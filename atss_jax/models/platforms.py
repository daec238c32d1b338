"""One result, computed in one way on CPUs and in others on GPUs and TPUs.

A program is often compiled on one machine to run on another, and an exported program
runs on several platforms. Which of the ways a program contains is therefore decided
by the platforms that it is lowered for, not by the machine that traces it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array


class Functions(NamedTuple):
    """What programs for each platform contain.

    Attributes:
        cpu: for CPUs.
        accelerator: for all others.
        tpu: for TPUs.
    """

    cpu: Callable[..., Any]
    accelerator: Callable[..., Any]
    tpu: Callable[..., Any]

    def change(self, to: Callable[[Callable[..., Any]], Callable[..., Any]]):
        """The same, with each function replaced by what `to` makes of it."""
        return Functions(*map(to, self))


def by_platform(
    *operands: Array,
    cpu: Callable[..., Array],
    accelerator: Callable[..., Array],
    tpu: Callable[..., Array] | None = None,
) -> Array:
    """`cpu(*operands)` in programs for CPUs, `accelerator(*operands)` in all others.

    All functions return an array of the same shape and type. The gradient is that of
    the function that the program contains. Only the operands are kept for it, so that
    it computes anew whatever else it needs.

    Args:
        operands: arrays.
        cpu: the function for CPUs.
        accelerator: the function for GPUs and TPUs.
        tpu: the function for TPUs, where it is another.
    """
    functions = Functions(cpu, accelerator, accelerator if tpu is None else tpu)
    return _by_platform(functions, *operands)


def function_on_cpu(functions: Functions) -> Callable[..., Any]:
    """The function that programs for CPUs contain; tests replace it by another."""
    return functions.cpu


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _by_platform(functions, *operands):
    (result,) = _bind(functions, _results(functions.accelerator, operands), operands)
    return result


def _forward(functions, *operands):
    values = [operand.value for operand in operands]
    # Indices of operands with a gradient. Keys belong to the structure of a tree, so
    # that the backward pass still knows them as Python's integers.
    varied = dict.fromkeys(i for i, x in enumerate(operands) if x.perturbed)
    return _by_platform(functions, *values), (values, varied)


def _backward(functions, saved, dy):
    operands, varied = saved[0], tuple(saved[1])
    if isinstance(dy, SymbolicZero):
        return (None,) * len(operands)
    gradients = _bind(
        functions.change(lambda f: functools.partial(_gradients, f, varied)),
        tuple(jax.typeof(operands[i]) for i in varied),
        (dy, *operands),
    )
    by_index = dict(zip(varied, gradients, strict=True))
    return tuple(by_index.get(i) for i in range(len(operands)))


def _gradients(function, varied, dy, *operands):
    """Gradients for the operands at the indices `varied`."""

    def of_varied(*values):
        values = dict(zip(varied, values, strict=True))
        return function(*(values.get(i, x) for i, x in enumerate(operands)))

    return jax.vjp(of_varied, *(operands[i] for i in varied))[1](dy)


_by_platform.defvjp(_forward, _backward, symbolic_zeros=True)


# `jax.lax.platform_dependent` leaves each branch within a conditional. XLA on CPU looks
# for fast convolutions before it removes conditionals: training of the R50 takes seven
# times as long then. A primitive of our own is lowered to the chosen function alone.
PRIMITIVE_NAME = 'by_platform'
_primitive = Primitive(PRIMITIVE_NAME)
_primitive.multiple_results = True


def _bind(functions, results, operands, as_written='accelerator'):
    """`as_written`: which function has the products of the model as it is written."""
    return _primitive.bind(
        *operands, functions=functions, results=results, as_written=as_written
    )


def _results(function, operands):
    return tuple(jax.make_jaxpr(function)(*operands).out_avals)


@_primitive.def_abstract_eval
def _abstract(*operands, results, **_):
    return results


@_primitive.def_impl
def _run(*operands, **parameters):
    return jax.jit(functools.partial(_primitive.bind, **parameters))(*operands)


def _lower(ctx, *operands, functions, **_):
    return _lower_function(functions.accelerator, ctx, operands)


def _lower_for_tpu(ctx, *operands, functions, **_):
    return _lower_function(functions.tpu, ctx, operands)


def _lower_for_cpu(ctx, *operands, functions, **_):
    return _lower_function(function_on_cpu(functions), ctx, operands)


def _lower_function(function, ctx, operands):
    rule = mlir.lower_fun(lambda *operands: jax.tree.leaves(function(*operands)))
    # In a program for several platforms, JAX would lower the function for some of them,
    # but operations within look up their platform by its place among all.
    return rule(ctx.replace(platforms=None), *operands)


mlir.register_lowering(_primitive, _lower)
mlir.register_lowering(_primitive, _lower_for_cpu, platform='cpu')
mlir.register_lowering(_primitive, _lower_for_tpu, platform='tpu')


def _batch(operands, axes, *, functions, results, as_written):
    functions = functions.change(lambda f: jax.vmap(f, tuple(axes)))
    results = _results(functions.accelerator, operands)
    outputs = _bind(functions, results, operands, as_written)
    return outputs, [0] * len(results)


batching.primitive_batchers[_primitive] = _batch


# Functions that keep what their gradients need ---------------------------------------


def by_platform_keeping(
    *operands: Array,
    cpu: Callable[..., tuple[Array, ...]],
    accelerator: Callable[..., tuple[Array, ...]],
) -> tuple[Array, ...]:
    """As `by_platform`, for functions that are too large to be computed twice.

    Both return tuples of arrays of the same shapes and types. For the gradient a
    program keeps what that of its own function needs; in its place for the other
    function are zeros, which nothing reads and the compiler removes.
    """
    return _keeping(Functions(cpu, accelerator, accelerator), *operands)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _keeping(functions, *operands):
    results = _results(functions.accelerator, operands)
    return tuple(_bind(functions, results, operands, 'cpu'))


def _keeping_forward(functions, *operands):
    traced = [_with_gradient(function, operands) for function in functions[:2]]
    kept = tuple(shapes for _, shapes, _ in traced)

    def of(index):
        def function(*operands):
            outputs, own = traced[index][0](*operands)
            arrays = [
                own if i == index else [jnp.zeros(x.shape, x.dtype) for x in shapes]
                for i, shapes in enumerate(kept)
            ]
            return (*outputs, *arrays[0], *arrays[1])

        return function

    functions = Functions(of(0), of(1), of(1))
    results = _results(functions.accelerator, operands)
    flat = _bind(functions, results, operands, 'cpu')
    count = len(flat) - len(kept[0]) - len(kept[1])
    of_both = flat[count:]
    of_each = of_both[: len(kept[0])], of_both[len(kept[0]) :]
    saved = [
        jax.tree.unflatten(tree, own)
        for (_, _, tree), own in zip(traced, of_each, strict=True)
    ]
    return tuple(flat[:count]), (saved, operands)


def _with_gradient(function, operands):
    """Function of outputs and what the gradient needs; shapes and tree of the latter.

    The tree holds the function of the gradient.
    """
    trees = []

    def outputs_and_kept(*operands):
        outputs, gradient = jax.vjp(function, *operands)
        leaves, tree = jax.tree.flatten(gradient)
        trees.append(tree)
        return outputs, leaves

    _, shapes = jax.eval_shape(outputs_and_kept, *operands)
    return outputs_and_kept, shapes, trees[0]


def _keeping_backward(functions, saved, dy):
    gradients, operands = saved
    leaves, trees = zip(*(jax.tree.flatten(f) for f in gradients), strict=True)
    varied = [i for i, x in enumerate(operands) if jnp.issubdtype(x.dtype, jnp.inexact)]

    def of(index):
        def function(dy, *leaves_of_both):
            start = 0 if index == 0 else len(leaves[0])
            own = leaves_of_both[start : start + len(leaves[index])]
            of_operands = jax.tree.unflatten(trees[index], own)(dy)
            return tuple(of_operands[i] for i in varied)

        return lambda *flat: function(flat[: len(dy)], *flat[len(dy) :])

    results = tuple(jax.typeof(operands[i]) for i in varied)
    flat = (*dy, *leaves[0], *leaves[1])
    computed = _bind(Functions(of(0), of(1), of(1)), results, flat, 'cpu')
    by_index = dict(zip(varied, computed, strict=True))
    return tuple(by_index.get(i) for i in range(len(operands)))


_keeping.defvjp(_keeping_forward, _keeping_backward)
