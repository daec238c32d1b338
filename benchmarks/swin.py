"""A Swin Transformer's forward pass next to mmdetection's, and its memory in training.

    python benchmarks/swin.py --mmdet_python=mmdet_env/bin/python

Swin-T (windows of 7 x 7 cells), one image, float32, on the CPU; both sides have the
same random weights and must agree before they are timed in turns. `make mmdet-env`
makes an environment with mmdetection. Without `--mmdet_python` ours is timed alone.
"""

import pathlib
import sys

import jax
import jax.numpy as jnp
import numpy as np

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is not installed

from atss_jax.models.swin import SwinTransformer  # noqa: E402
from atss_jax.weights import mmdet  # noqa: E402
from benchmarks import timing  # noqa: E402
from benchmarks.peers.link import Peer  # noqa: E402

CANVAS = (256, 320)
PAUSE = 0.05  # seconds; torch's threads keep spinning after a call
MIB = 2**20


def random_weights(model, image):
    """Weights like those of a trained model, as NumPy arrays."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *image)
    return jax.tree.map(
        lambda x: rng.normal(
            0, 0.2 if x.ndim < 2 else x.shape[0] ** -0.5, x.shape
        ).astype(np.float32),
        shapes,
    )


def forward_seconds(model, variables, image, python, repeats):
    """Median seconds of ours and, if there is a Python with it, of mmdetection."""
    compiled = jax.jit(model.apply).lower(variables, *image).compile()

    def ours():
        return jax.block_until_ready(compiled(variables, *image))

    if python is None:
        return {'ours': timing.seconds(ours, repeats, warm_up=2)}
    script = pathlib.Path(__file__).parent / 'peers' / 'mmdet_swin.py'
    with Peer(python, script, '`make mmdet-env` makes an environment') as peer:
        print(', '.join(f'{k} {v}' for k, v in peer('versions').items()))
        params = {'params': {'backbone': variables['params']}}
        state = {
            name.removeprefix('backbone.'): value
            for name, value in mmdet.to_state_dict(params).items()
        }
        peer('setup', state, np.asarray(image[0]))
        for result, expected in zip(ours(), peer('features'), strict=True):
            error = abs(np.asarray(result) - expected).max() / abs(expected).max()
            print(f'features agree to {error:.1e}')
            if not error < 1e-4:
                raise ValueError('mmdetection and atss_jax differ')
        calls = {'mmdetection': lambda: peer('forward'), 'ours': ours}
        return timing.interleaved(calls, repeats, warm_up=2, pause=PAUSE)


def memory_rows(image):
    """What training keeps between forward and backward pass, and what XLA plans."""
    rows = []
    for with_cp in (False, True):
        model = SwinTransformer(with_cp=with_cp, drop_path_rate=0.0)
        variables = jax.eval_shape(model.init, jax.random.key(0), *image)

        def pullback(variables, model=model):
            return jax.vjp(lambda v: model.apply(v, *image), variables)[1]

        def loss(variables, model=model):
            return sum((x * x).mean() for x in model.apply(variables, *image))

        kept = _bytes(jax.eval_shape(pullback, variables)) - _bytes(variables)
        compiled = jax.jit(jax.grad(loss)).lower(variables).compile()
        planned = compiled.memory_analysis().temp_size_in_bytes
        cells = [f'{count / MIB:.0f} MiB' for count in (kept, planned)]
        rows.append([with_cp, *cells])
    return rows


def _bytes(tree):
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def main() -> int:
    """Reads the flags and prints the tables."""
    parser = timing.new_parser(__doc__)
    parser.add_argument('--mmdet_python', help="mmdetection's Python")
    parser.add_argument('--repeats', type=int, default=10)
    flags = parser.parse_args()
    jax.config.update('jax_platforms', 'cpu')
    model = SwinTransformer(drop_path_rate=0.0)
    pixels = np.random.default_rng(1).normal(0, 1, (1, *CANVAS, 3))
    image = jnp.asarray(pixels, jnp.float32), jnp.array([CANVAS])
    variables = random_weights(model, image)
    print(timing.machine())
    seconds = forward_seconds(
        model, variables, image, flags.mmdet_python, flags.repeats
    )
    rows = [[name, timing.milliseconds(value)] for name, value in seconds.items()]
    if 'mmdetection' in seconds:
        rows.append(['ratio', f'{seconds["mmdetection"] / seconds["ours"]:.3g}'])
    print('\n' + timing.table(['forward', 'time'], rows) + '\n')
    header = ['with_cp', 'kept for the gradient', 'planned by XLA']
    print(timing.table(header, memory_rows(image)))
    return 0


if __name__ == '__main__':
    raise SystemExit(main())
