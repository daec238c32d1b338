"""Trains a detector: `python train.py --config=configs/atss_r50_1x.py --workdir=W`."""

import argparse
import os
import pathlib
import sys

USAGE = """
Any config field is set by --config.FIELD=VALUE:
  --config.optimizer.lr=0.005 --config.data.train.pipeline.img_scale="(1000, 600)"
Run again with the same workdir, a stopped run goes on where it was.
"""


def main() -> int:
    """Reads the flags and trains."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog=USAGE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument('--config', required=True, help='a file in configs/')
    parser.add_argument('--workdir', required=True, help='folder of the run')
    flags, overrides = parser.parse_known_args()
    # Compiled programs of this run, so that going on with it does not compile again.
    cache = pathlib.Path(flags.workdir).absolute() / 'compile_cache'
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))

    import absl.logging

    from atss_jax.config import load_config, parse_overrides
    from atss_jax.training.loop import NonFiniteLoss, train

    # Orbax and grain speak through absl; what matters we say ourselves.
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        config = load_config(flags.config, parse_overrides(overrides))
        train(config, flags.workdir)
    except (ValueError, OSError, NonFiniteLoss) as error:
        print(f'train.py: {error}', file=sys.stderr)
        return 1
    print(f'done: python eval.py --workdir={flags.workdir}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
