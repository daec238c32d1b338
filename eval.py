"""Scores the best checkpoint of a run: `python eval.py --workdir=W`."""

import argparse
import os
import pathlib
import sys


def main() -> int:
    """Reads the flags, evaluates, prints and writes the numbers."""
    parser = argparse.ArgumentParser(
        description=__doc__,
        epilog='Any config field is set by --config.FIELD=VALUE.',
        allow_abbrev=False,
    )
    parser.add_argument('--workdir', required=True, help='folder of the run')
    parser.add_argument('--split', default='val', choices=('train', 'val', 'test'))
    parser.add_argument('--step', type=int, help='a checkpoint; default: the best')
    flags, overrides = parser.parse_known_args()
    cache = pathlib.Path(flags.workdir).absolute() / 'compile_cache'
    os.environ.setdefault('JAX_COMPILATION_CACHE_DIR', str(cache))

    import absl.logging

    from atss_jax.config import parse_overrides
    from atss_jax.evaluation.workdir import evaluate_workdir

    # Orbax and grain speak through absl; what matters we say ourselves.
    absl.logging.set_verbosity(absl.logging.ERROR)
    try:
        overrides = parse_overrides(overrides)
        evaluate_workdir(flags.workdir, flags.split, flags.step, overrides)
    except (ValueError, OSError) as error:
        print(f'eval.py: {error}', file=sys.stderr)
        return 1
    return 0


if __name__ == '__main__':
    sys.exit(main())
