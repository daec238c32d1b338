"""Head outputs as an ONNX program, and a page of JSON: what follows is not in it.

Through jax2onnx, which is not among our requirements: see requirements-onnx.txt.
"""

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.core import ClosedJaxpr, Literal, jaxpr_as_fun

from atss_jax.trained import Trained

SUFFIX = '.onnx'
_AGREEMENT = 1e-4
"""Of the largest value of an output; float32 differs by some 1e-6 of it."""


def write(
    out: str | os.PathLike,
    trained: Trained,
    canvas: tuple[int, int] | None = None,
    batch_size: int | None = None,
) -> str:
    """Writes `OUT` and, beside it, `OUT.json`, and checks that onnxruntime agrees.

    Inputs are `image` (B,H,W,3) uint8 RGB, zero outside each picture, and `image_size`
    (B,2) int32: height, width. Outputs are `cls_logits_S`, `deltas_S`, `centerness_S`
    for each stride S, as `structures.HeadOutputs`. Normalisation is in the program;
    scores, decoding and NMS are not, but their settings are in the JSON.

    Args:
        out: file to write; its name ends in `.onnx`.
        trained: what to export.
        canvas: height, width, multiples of the config's `size_divisor`; None: the
            first canvas of `data.test`.
        batch_size: B, None: 1. jax2onnx 0.17.1 cannot leave it or the canvas free.

    Returns:
        What was written and how well onnxruntime agrees, in words.

    Raises:
        ValueError: another name, canvas or batch size than those; jax2onnx is not
            installed or cannot translate the model; onnxruntime computes otherwise.
        OSError: the file cannot be written.
    """
    path = pathlib.Path(out)
    if path.suffix != SUFFIX:
        raise ValueError(f'expected a name that ends in {SUFFIX}, got {out}')
    canvas = canvas or trained.experiment.data['test'].pipeline.all_canvases()[0]
    batch_size = 1 if batch_size is None else batch_size
    _check_size(canvas, batch_size, trained.experiment.model.size_divisor)
    heads, names = _heads(trained)
    path.parent.mkdir(parents=True, exist_ok=True)
    _translate(heads, _inputs(canvas, batch_size), names, path)
    difference = _difference(path, heads, _pictures(canvas, batch_size))
    if not difference <= _AGREEMENT:
        path.unlink()
        raise ValueError(
            f'{path}: onnxruntime differs from JAX by {difference:.1e} of the largest '
            f'value, more than {_AGREEMENT:g}; nothing was written'
        )
    page = _page(trained, canvas, batch_size)
    path.with_name(path.name + '.json').write_text(json.dumps(page, indent=1) + '\n')
    return (
        f'head outputs of {batch_size} x {canvas[0]}x{canvas[1]}; onnxruntime differs '
        f'from JAX by {difference:.1e} of the largest value'
    )


def _check_size(canvas, batch_size, divisor):
    if batch_size < 1 or any(side < 1 or side % divisor for side in canvas):
        raise ValueError(
            f'expected a canvas of multiples of {divisor} and a batch of at least 1, '
            f'got {canvas[0]}x{canvas[1]} and {batch_size}'
        )


def _heads(trained):
    """Pictures to all outputs in one list, and the names of these."""
    experiment = trained.experiment
    model, normalizer = experiment.model, experiment.data['test'].normalizer
    variables = jax.tree.map(jnp.asarray, trained.variables)

    def heads(image, image_size):
        outputs = model.apply(variables, normalizer(image, image_size), image_size)
        return [level for field in outputs for level in field]

    fields = ('cls_logits', 'deltas', 'centerness')
    names = [f'{field}_{stride}' for field in fields for stride in model.strides]
    return heads, names


def _inputs(canvas, batch_size):
    image = jax.ShapeDtypeStruct((batch_size, *canvas, 3), jnp.uint8)
    return image, jax.ShapeDtypeStruct((batch_size, 2), jnp.int32)


def _translate(heads, inputs, names, path):
    try:
        from jax2onnx import to_onnx
    except ImportError as error:
        raise ValueError(
            'ONNX needs jax2onnx: pip install -r requirements-onnx.txt && pip install '
            f'--no-deps jax2onnx==0.17.1 ({error})'
        ) from error
    # Traced by us: jax2onnx puts functions of its own in the place of jnp's, and its
    # `where` makes float64 of float32.
    program = jax.make_jaxpr(heads)(*inputs)
    try:
        to_onnx(
            _without_4d_pooling(program),
            inputs=list(inputs),
            input_names=['image', 'image_size'],
            output_names=names,
            return_mode='file',
            output_path=str(path),
        )
    except NotImplementedError as error:
        raise ValueError(f'jax2onnx cannot translate this model: {error}') from error


def _without_4d_pooling(program: ClosedJaxpr) -> Callable:
    """The program as a function that pools over three dimensions at most.

    jax2onnx writes pooling of (B,H,W,C) as that of four dimensions, which onnxruntime
    does not compute. Functions with gradients of their own are taken apart.
    """

    def run(*arguments: jax.Array) -> Sequence[jax.Array]:
        jaxpr = program.jaxpr
        values = dict(zip(jaxpr.constvars, program.consts, strict=True))
        values.update(zip(jaxpr.invars, arguments, strict=True))

        def read(variable):
            return variable.val if isinstance(variable, Literal) else values[variable]

        for equation in jaxpr.eqns:
            found = _run_one(equation, [read(each) for each in equation.invars])
            values.update(zip(equation.outvars, found, strict=True))
        return [read(variable) for variable in jaxpr.outvars]

    return run


def _run_one(equation, inputs):
    """The list of what an equation gives."""
    primitive, parameters = equation.primitive, equation.params
    if 'call_jaxpr' in parameters:
        return jaxpr_as_fun(parameters['call_jaxpr'])(*inputs)
    if primitive.name == 'reduce_window_max' and inputs[0].ndim == 4:
        return [_pool(primitive, parameters, *inputs)]
    found = primitive.bind(*inputs, **parameters)
    return found if primitive.multiple_results else [found]


def _pool(primitive, parameters, x):
    """The windows span one picture and channel: both go to the last dimension."""
    batch, height, width, channels = x.shape
    flat = x.transpose(1, 2, 0, 3).reshape(height, width, batch * channels)
    parameters = {name: value[1:] for name, value in parameters.items()}
    pooled = primitive.bind(flat, **parameters)
    pooled = pooled.reshape(*pooled.shape[:2], batch, channels)
    return pooled.transpose(2, 0, 1, 3)


def _pictures(canvas, batch_size):
    """Noise: the first fills the canvas, each next one less of it."""
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (batch_size, *canvas, 3)).astype(np.uint8)
    sizes = np.array(
        [
            [side - side * i // (2 * batch_size) for side in canvas]
            for i in range(batch_size)
        ],
        np.int32,
    )
    for row, (height, width) in zip(image, sizes, strict=True):
        row[height:], row[:, width:] = 0, 0
    return image, sizes


def _difference(path, heads, pictures):
    """The largest of all outputs, each relative to its largest value."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path)
    names = [each.name for each in session.get_inputs()]
    found = session.run(None, dict(zip(names, pictures, strict=True)))
    expected = jax.device_get(jax.jit(heads)(*pictures))
    return max(
        float(np.abs(one - other).max() / np.abs(other).max())
        for one, other in zip(found, expected, strict=True)
    )


def _page(trained, canvas, batch_size):
    experiment = trained.experiment
    pipeline = experiment.data['test'].pipeline
    return {
        'classes': trained.classes,
        'batch_size': batch_size,
        'canvas': canvas,
        'img_scale': pipeline.img_scale,
        'keep_ratio': pipeline.keep_ratio,
        'detect': dataclasses.asdict(experiment.detect),
    }
