"""One result, computed in one way on CPUs and in another on GPUs and TPUs.

A program is often compiled on one machine to run on another, and an exported program
runs on several platforms. Which of the two ways a program contains is therefore decided
by the platforms that it is lowered for, not by the machine that traces it.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
from jax.custom_derivatives import SymbolicZero
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir
from jaxtyping import Array


def by_platform(
    *operands: Array, cpu: Callable[..., Array], accelerator: Callable[..., Array]
) -> Array:
    """`cpu(*operands)` in programs for CPUs, `accelerator(*operands)` in all others.

    Both functions return an array of the same shape and type. The gradient is that of
    the function that the program contains. Only the operands are kept for it, so that
    it computes anew whatever else it needs.
    """
    return _by_platform(cpu, accelerator, *operands)


def function_on_cpu(
    cpu: Callable[..., Any], accelerator: Callable[..., Any]
) -> Callable[..., Any]:
    """The function that programs for CPUs contain; tests replace it by the other."""
    return cpu


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _by_platform(cpu, accelerator, *operands):
    (result,) = _bind(cpu, accelerator, _results(accelerator, operands), operands)
    return result


def _forward(cpu, accelerator, *operands):
    values = [operand.value for operand in operands]
    # Indices of operands with a gradient. Keys belong to the structure of a tree, so
    # that the backward pass still knows them as Python's integers.
    varied = dict.fromkeys(i for i, x in enumerate(operands) if x.perturbed)
    return _by_platform(cpu, accelerator, *values), (values, varied)


def _backward(cpu, accelerator, saved, dy):
    operands, varied = saved[0], tuple(saved[1])
    if isinstance(dy, SymbolicZero):
        return (None,) * len(operands)
    gradients = _bind(
        functools.partial(_gradients, cpu, varied),
        functools.partial(_gradients, accelerator, varied),
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


def _bind(cpu, accelerator, results, operands):
    return _primitive.bind(*operands, cpu=cpu, accelerator=accelerator, results=results)


def _results(function, operands):
    return tuple(jax.make_jaxpr(function)(*operands).out_avals)


@_primitive.def_abstract_eval
def _abstract(*operands, cpu, accelerator, results):
    return results


@_primitive.def_impl
def _run(*operands, cpu, accelerator, results):
    return jax.jit(functools.partial(_bind, cpu, accelerator, results))(operands)


def _lower(ctx, *operands, cpu, accelerator, results):
    return _lower_function(accelerator, ctx, operands)


def _lower_for_cpu(ctx, *operands, cpu, accelerator, results):
    return _lower_function(function_on_cpu(cpu, accelerator), ctx, operands)


def _lower_function(function, ctx, operands):
    rule = mlir.lower_fun(lambda *operands: jax.tree.leaves(function(*operands)))
    # In a program for several platforms, JAX would lower the function for some of them,
    # but operations within look up their platform by its place among all.
    return rule(ctx.replace(platforms=None), *operands)


mlir.register_lowering(_primitive, _lower)
mlir.register_lowering(_primitive, _lower_for_cpu, platform='cpu')


def _batch(operands, axes, *, cpu, accelerator, results):
    cpu, accelerator = (jax.vmap(f, tuple(axes)) for f in (cpu, accelerator))
    results = _results(accelerator, operands)
    return _bind(cpu, accelerator, results, operands), [0] * len(results)


batching.primitive_batchers[_primitive] = _batch
