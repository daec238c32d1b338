"""One result, computed in one way on CPUs and in others on GPUs and TPUs.

A program is often compiled on one machine to run on another, and an exported program
runs on several platforms. Which of the ways a program contains is therefore decided
by the platforms that it is lowered for, not by the machine that traces it.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
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
        gpu: for GPUs of NVIDIA and AMD.
    """

    cpu: Callable[..., Any]
    accelerator: Callable[..., Any]
    tpu: Callable[..., Any]
    gpu: Callable[..., Any]

    def change(self, to: Callable[[Callable[..., Any]], Callable[..., Any]]):
        """The same, with each function replaced by what `to` makes of it."""
        return Functions(*map(to, self))


def by_platform(
    *operands: Array,
    cpu: Callable[..., Array],
    accelerator: Callable[..., Array],
    tpu: Callable[..., Array] | None = None,
    gpu: Callable[..., Array] | None = None,
) -> Array:
    """`cpu(*operands)` in programs for CPUs, `accelerator(*operands)` in all others.

    All functions return an array of the same shape and type. The gradient is that of
    the function that the program contains, by a backward pass; it has none itself.
    Only the operands are kept for it, so that it computes anew whatever else it needs.
    XLA finds what it has computed before, and keeps that instead, unless the function
    has a `jax.checkpoint` in a loop.

    Args:
        operands: arrays.
        cpu: the function for CPUs.
        accelerator: the function for GPUs and TPUs.
        tpu: the function for TPUs, where it is another.
        gpu: the function for GPUs, where it is another.
    """
    functions = Functions(
        cpu,
        accelerator,
        tpu=accelerator if tpu is None else tpu,
        gpu=accelerator if gpu is None else gpu,
    )
    return _by_platform(functions, *operands)


def on_gpus(function: Callable[..., Array], x: Array, *operands: Array) -> Array:
    """`function(x, *operands)` in programs for GPUs, `x` itself in all others."""
    return by_platform(x, *operands, cpu=_first, accelerator=_first, gpu=function)


def _first(x, *_):
    return x


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


def _bind(functions, results, operands):
    return _primitive.bind(*operands, functions=functions, results=results)


def _results(function, operands):
    return tuple(jax.make_jaxpr(function)(*operands).out_avals)


@_primitive.def_abstract_eval
def _abstract(*operands, functions, results):
    return results


@_primitive.def_impl
def _run(*operands, functions, results):
    return jax.jit(functools.partial(_bind, functions, results))(operands)


def _lower(ctx, *operands, functions, results):
    return _lower_function(functions.accelerator, ctx, operands)


def _lower_for_tpu(ctx, *operands, functions, results):
    return _lower_function(functions.tpu, ctx, operands)


def _lower_for_gpu(ctx, *operands, functions, results):
    return _lower_function(functions.gpu, ctx, operands)


def _lower_for_cpu(ctx, *operands, functions, results):
    return _lower_function(function_on_cpu(functions), ctx, operands)


def _lower_function(function, ctx, operands):
    rule = mlir.lower_fun(lambda *operands: jax.tree.leaves(function(*operands)))
    # In a program for several platforms, JAX would lower the function for some of them,
    # but operations within look up their platform by its place among all.
    return rule(ctx.replace(platforms=None), *operands)


mlir.register_lowering(_primitive, _lower)
mlir.register_lowering(_primitive, _lower_for_cpu, platform='cpu')
mlir.register_lowering(_primitive, _lower_for_tpu, platform='tpu')
for _platform in ('cuda', 'rocm'):
    mlir.register_lowering(_primitive, _lower_for_gpu, platform=_platform)


def _batch(operands, axes, *, functions, results):
    functions = functions.change(lambda f: jax.vmap(f, tuple(axes)))
    results = _results(functions.accelerator, operands)
    return _bind(functions, results, operands), [0] * len(results)


batching.primitive_batchers[_primitive] = _batch
